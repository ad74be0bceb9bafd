"""From a run to verified artefacts and report.json."""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fsg import FsgError
from fsg.export import deep
from fsg.export.artefacts import LEARNED, check_on_integers, check_settings, export_graph
from fsg.export.graph import Affine, BinaryLayer, Conv, Dense, Floats, Quantize
from fsg.export.images import evenly, for_calibration, random_images, training_images
from fsg.export.int8 import learned_layers
from fsg.export.recognise import simplify
from fsg.export.trace import trace, values_of
from fsg.export.verify import MIN_AGREEMENT, Trial
from fsg.runtime.model.evaluate import match_labels, normalize
from fsg.runtime.model.files import REPORT, report_beside
from fsg.training.checkpoint import digest
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import Dataset, options_of_model, shown
from fsg.training.networks.layers import float_size
from fsg.training.run import Run, predict


def export_run(
    run: Run,
    formats: Collection[str],
    folder: Path,
    *,
    data_dir: str | None = None,
    dataset: str | None = None,
    on_step: Callable[[str], object] = lambda text: None,
    **how: Any,
) -> dict[str, Any]:
    """Writes the model files that `formats` names, and report.json, into `folder`; returns the report.

    `dataset` says where that of the training is now; `how` is as in `export_model`. Every artefact is compared with the
    PyTorch model on up to 1000 images of the test split before it takes its place. A run with `int8_aware` has its
    float layers on integers in every file. Errors: FsgError for a model that
    cannot be exported and for an artefact that disagrees; then `folder` is as it was.
    """
    check_settings(formats, **how)
    on_step("reading the test images")
    checkpoint, data = digest(run.path, run.checkpoint), dataset or run.config.dataset
    images, labels, expected = test_images(run, data_dir, spec=dataset, on_step=on_step)
    about = {
        "run": str(run.path),
        "checkpoint": checkpoint,
        "epoch": run.epoch,
        "model": run.config.model,
        "dataset": data,
        "activation_bits": run.config.activation_bits,
        "hypernetwork_parameters_discarded": run.hypernetwork_parameters,
    }
    trial = Trial(images, labels, expected, dataset=data)
    how["calibration"] = lambda: training_images(run, data, data_dir or run.config.data_dir or None)
    return _export(run.model, folder, formats, trial, run.metadata, about, on_step=on_step, **how)


def export_model(
    model: nn.Module,
    shape: tuple[int, int, int],
    folder: Path,
    formats: Collection[str] = ("tflite", "onnx"),
    *,
    images: Floats | None = None,
    metadata: dict[str, Any] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Exports any model of PyTorch's that takes images of `shape` (C, H, W); returns the report.

    `images` [N, C, H, W], as the model takes them, are what the files are compared with PyTorch on; random ones if left
    away. `metadata` travel in the files: mean, std and class_names are what `fsg eval` needs. `opset` is the version of
    ONNX's operators; None for the oldest that will do. `batch` is how many images a file takes at once; None for any
    number, of .onnx files. `input` "uint8" has files take raw pixels, and normalise them. `writer` is one of
    `options.CHOICES["writer"]`. `verify` "deep" also compares every value within the network. `int8` "weights" or
    "layers" makes float layers those of integers, "layers" on ranges that are chosen by `images`; a model with fake
    quantisers always has those that it learnt. Errors: as `export_run`.
    """
    check_settings(formats, **how)
    if images is None:
        images = random_images(shape, metadata if how.get("input") == "uint8" else None)
    else:
        given = images
        how["calibration"] = lambda: for_calibration(given)
    if images.ndim != 4 or images.shape[1:] != tuple(shape) or len(images) < 2:
        raise FsgError(f"images of shape {list(images.shape)} are not two or more of {list(shape)}; give such ones")
    training = model.training
    expected = predict(model, torch.from_numpy(images)).numpy()
    model.train(training)
    expected = expected.reshape(len(images), -1)
    known = {**(metadata or {}), "input_shape": [1, *shape]}
    return _export(model, Path(folder), formats, Trial(images, None, expected), known, {}, **how)


def _export(
    model: nn.Module,
    folder: Path,
    formats: Collection[str],
    trial: Trial,
    metadata: dict[str, Any],
    about: dict[str, Any],
    *,
    batch: int | None = 1,
    on_step: Callable[[str], object] = lambda text: None,
    **how: Any,
) -> dict[str, Any]:
    """What every export does, given what PyTorch computes of images; `about` is reported."""
    images = trial.images
    on_step("reading the graph")
    read = trace(model, (images.shape[1], images.shape[2], images.shape[3]))
    if read.count(Quantize):
        why = "the network was trained with --int8-aware, so its float layers are on integers"
        asked = None if how.get("int8") == "layers" else how.get("int8")  # which these are
        check_on_integers(formats, asked, how.get("writer", "auto"), why, "train without --int8-aware")
        how["int8"] = LEARNED
    graph = simplify(read)
    some = images[: min(len(images) // 2 * 2, deep.IMAGES)]

    def read_rightly() -> int:
        on_step("comparing every layer with PyTorch")
        values = values_of(model, some)
        compared = deep.check_values(read, values, some, "PyTorch")
        if how.get("int8") == LEARNED:
            whole = learned_layers(graph)
            folded = (Affine, BinaryLayer, Conv, Dense)  # PyTorch has these without their batch norms
            same = {node.name for node in whole.nodes if not isinstance(node, folded)} & values.keys()
            deep.check_values(whole, {name: values[name] for name in same}, some, "PyTorch")
        return compared

    return export_graph(
        graph,
        folder,
        formats,
        trial,
        metadata | {"input_shape": [batch, *images.shape[1:]]},
        about,
        read_from="the model",
        read_rightly=read_rightly,
        float_size=float_size(model),
        earlier=_earlier(folder, about.get("checkpoint")),
        batch=batch,
        on_step=on_step,
        **how,
    )


def _earlier(folder: Path, checkpoint: str | None) -> dict[str, Any]:
    """The report of an earlier export of the same weights into the folder; empty where there is none."""
    earlier = report_beside(folder / REPORT)
    return earlier if checkpoint and earlier.get("checkpoint") == checkpoint else {}


def test_images(
    run: Run,
    data_dir: str | None = None,
    load: Callable[..., Dataset] = load_dataset,
    spec: str | None = None,
    on_step: Callable[[str], object] = lambda text: None,
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Up to 1000 normalised images of the test split, their labels, and the logits that PyTorch computes.

    Errors: FsgError for data that do not fit the run, and where its accuracy is not the recorded one.
    """
    spec = spec or run.config.dataset
    where = data_dir or run.config.data_dir or None
    options = options_of_model(run.metadata)
    data = load(spec, data_dir=where, test_only=True, progress=shown(on_step, spec), options=options)
    if data.shape != run.data.shape:
        raise FsgError(f"{spec}: images are {list(data.shape)}, the run was trained on {list(run.data.shape)}")
    chosen = evenly(len(data.x_test))
    images = normalize(data.x_test[chosen], run.data.mean, run.data.std)
    labels = match_labels(run, data.y_test[chosen], data.class_names)
    expected = run(images)
    _require_recorded_accuracy(run, float((expected.argmax(1) == labels).mean()), len(images), len(data.x_test))
    return images, labels, expected


def _require_recorded_accuracy(run: Run, found: float, samples: int, total: int) -> None:
    """Raises FsgError if `found`, on `samples` of `total` test images, cannot be the accuracy that the run recorded.

    Rounding may decide some images otherwise, as in `verify`; the choice of images adds 5 standard errors.
    """
    recorded = run.test_accuracy
    error = math.sqrt(recorded * (1 - recorded) / samples * (1 - samples / total))
    if abs(found - recorded) > 1 - MIN_AGREEMENT + 1 / samples + 5 * error:
        raise FsgError(
            f"{run.path}: its accuracy is {found:.2%} on {samples} of {total} test images of {run.config.dataset}, but"
            f" {recorded:.2%} was recorded when it was trained: the data are others, or the model's code was changed"
            " since; give what it was trained with, or train anew"
        )
