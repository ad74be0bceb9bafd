"""From a packed-sign file to verified artefacts and report.json, without torch."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.export import deep
from fsg.export.artefacts import check_on_integers, check_settings, export_graph
from fsg.export.formats.packed import from_packed
from fsg.export.graph import BinaryGraph, Int8Layer, Quantize
from fsg.export.images import dataset_for, evenly, random_images, training_images
from fsg.export.verify import Trial
from fsg.runtime.model.evaluate import match_labels, normalize, statistics
from fsg.runtime.model.files import REPORT, SUFFIXES, file_digest, report_beside
from fsg.runtime.model.packed.interpret import Interpreter
from fsg.runtime.model.packed.read import read_packed
from fsg.runtime.model.session import Session, open_model


def export_packed(
    path: Path,
    formats: Collection[str],
    folder: Path | None = None,
    *,
    data_dir: str | None = None,
    dataset: str | None = None,
    batch: int | None = 1,
    writer: str = "auto",
    on_step: Callable[[str], object] = lambda text: None,
    **how: Any,
) -> dict[str, Any]:
    """Writes the model files that `formats` names, and report.json, into `folder`, by default the file's own.

    Every file is compared with fsg's interpreter of `path` before it takes its place: on up to 1000 test images of
    `dataset`, or else on 64 random ones. The file's metadata go into all of them. `how` is as in
    `pipeline.export_model`, but LCE's converter writes only if `writer` asks for it. Errors: FsgError for a file that
    is not as specified, or cannot be written in these formats, and for one that disagrees; then `folder` is as it was.
    """
    if writer == "auto" and "tflite" in formats:
        writer = "direct"
    check_settings(formats, batch=batch, writer=writer, **how)
    if data_dir and not dataset:
        raise FsgError("--data-dir says where the images of --dataset are: give that too, or leave it away")
    folder = folder or path.parent
    file, session = read_packed(path), open_model(path)
    for name in formats:
        target = folder / f"model{SUFFIXES[name]}"
        if target.exists() and target.samefile(path):
            raise FsgError(f"{path} would be written over itself: choose another folder with --out")
    graph = from_packed(file)
    if len(graph.nodes) == 1:
        raise FsgError(f"{path}: its result is the image itself: there is nothing to export")
    if graph.count(Quantize) or graph.count(Int8Layer):
        why = f"{path} has its float layers on integers already"
        check_on_integers(formats, how.get("int8"), writer, why, "export its run without --int8")
    about, earlier, size = _known(path, folder, file.metadata, graph)
    on_step("reading the test images" if dataset else f"computing {path.name} on random images")
    trial = _trial(path, session, dataset, data_dir, file.metadata if how.get("input") == "uint8" else None)
    some = trial.images[: deep.IMAGES]

    def read_rightly() -> int:
        on_step(f"comparing every value in {path.name} with its meaning")
        return deep.check_values(graph, Interpreter(file).values(some), some, path.name)

    shape = {"input_shape": [batch, *session.input_shape]} if "input_shape" in file.metadata else {}
    return export_graph(
        graph,
        folder,
        formats,
        trial,
        file.metadata | shape,
        about,
        read_from=path.name,
        read_rightly=read_rightly,
        float_size=size,
        earlier=earlier,
        calibration=(lambda: training_images(session, dataset, data_dir)) if dataset else None,
        batch=batch,
        writer=writer,
        on_step=on_step,
        **how,
    )


def _known(
    path: Path, folder: Path, metadata: dict[str, Any], graph: BinaryGraph
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """What the report is to say of a file, the earlier report of the same network in the folder, and its float32 size.

    Where that report is of the export which wrote the file, what it says of the run stays. Errors: FsgError for a
    report of another run's export, which bench and report would miss.
    """
    digest, earlier = file_digest(path), report_beside(folder / REPORT)
    artefacts = earlier.get("artefacts")
    if isinstance(artefacts, list) and any(isinstance(a, dict) and a.get("sha256") == digest for a in artefacts):
        size = earlier.get("float_size_bytes")
        return earlier, earlier, size if isinstance(size, int) else _float_size(graph)
    if "checkpoint" in earlier:
        raise FsgError(f"{folder / REPORT} is of a run, and not of {path} as it is: choose another folder with --out")
    about: dict[str, Any] = {name: metadata[name] for name in ("model", "activation_bits") if name in metadata}
    about |= {"source": str(path), "source_sha256": digest}
    return about, earlier if earlier.get("source_sha256") == digest else {}, _float_size(graph)


def _float_size(graph: BinaryGraph) -> int:
    """Bytes of all numbers in a graph's nodes, each as float32."""
    return sum(4 * value.size for node in graph.nodes for value in vars(node).values() if isinstance(value, np.ndarray))


def _trial(
    path: Path, session: Session, dataset: str | None, data_dir: str | None, of_pixels: dict[str, Any] | None
) -> Trial:
    """What files are compared on: test images of a data set, or random ones for want of one.

    These are pixels, if `of_pixels` has how they are normalised.
    """
    labels = None
    if dataset:
        data = dataset_for(session, dataset, data_dir)
        chosen = evenly(len(data.x_test))
        pixels = data.x_test[chosen]
        images = normalize(pixels, *statistics(session, pixels))
        labels = match_labels(session, data.y_test[chosen], data.class_names)
    else:
        images = random_images(session.input_shape, of_pixels)
    expected = session(images)
    if not np.isfinite(expected).all():
        other = "other images" if dataset else "images that it is meant for"
        raise FsgError(f"{path}: its results are not finite on these images; give {other} with --dataset")
    return Trial(images, labels, expected.reshape(len(images), -1), path.name, dataset)
