"""The accuracy of runs and model files on the test images of a data set by name. Model files need no torch."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.model.evaluate import Classifier
from fsg.runtime.model.evaluate import evaluate as evaluate_model
from fsg.runtime.model.session import open_model
from fsg.training.data.load import check_spec, load_dataset
from fsg.training.data.sets import Dataset, options_of_model, shown
from fsg.training.folder import checked_run


def evaluate_on(
    target: Path,
    spec: str | None = None,
    *,
    data_dir: str | None = None,
    best: bool = False,
    load: Callable[..., Dataset] = load_dataset,
    show: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Top-1 accuracy of a run folder, or of a .tflite or .onnx file.

    Args:
        target: the folder or file.
        spec: the data set, as `load_dataset` takes it; that of the training if left away.
        data_dir: where the data set is.
        best: takes a run after its best epoch, not after its last.
        load: what reads it, such as a `Shelf`.
        show: is told what happens.

    Returns:
        {"dataset": its name, "accuracy": a fraction, "samples": number of images, "confusion": how many of them
        [class, what it was taken for], "class_names": of these, "notes": what was left out of the data, if anything}

    Errors: FsgError for a target or data set that cannot be read, or that do not fit each other.
    """
    model: Classifier
    own_dir = ""
    if target.is_dir():
        checked_run(target)
        from fsg.training.run import open_run

        model = open_run(target, best=best)
        own_dir = model.config.data_dir
    elif best:
        raise FsgError(f"{target} is no run: --best is for the folder of one")
    else:
        model = open_model(target)
    spec = spec or model.metadata.get("dataset")
    if not spec:
        raise FsgError(f"{target} does not say what it was trained on: give --dataset")
    check_spec(spec)
    options = options_of_model(model.metadata)
    where = data_dir or own_dir or None
    data = load(spec, data_dir=where, test_only=True, progress=shown(show, spec), options=options)
    show(f"testing {target} on {len(data.x_test)} images")
    names = list(model.metadata.get("class_names", data.class_names))
    return {
        "dataset": spec,
        **evaluate_model(model, data.x_test, data.y_test, data.class_names),
        "class_names": names,
        **({"notes": list(data.notes)} if data.notes else {}),
    }


def accuracies_on(targets: Iterable[Path], spec: str, **how: Any) -> dict[Path, float]:
    """The accuracy of each target on one data set; `how` as for `evaluate_on`."""
    return {target: evaluate_on(target, spec, **how)["accuracy"] for target in targets}
