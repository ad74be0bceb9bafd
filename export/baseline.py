"""The same network in float32 and int8: what a binary model is compared with.

Weights, signs and results are those of the binary network, but no operation is bitwise: every convolution is one that
any runtime has, and a sign costs one multiplication with a clamp. So a baseline shows what the network would cost
without binary kernels, its accuracy can be held against PyTorch's, and it needs no training of its own.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError, make_folder, replacing, shell_command
from fsg.export.formats.tflite.process import converter
from fsg.export.graph import BinaryGraph, Floats, Node, Pad, rewrite
from fsg.export.images import evenly
from fsg.export.passes import (
    bits_as_floats,
    float_where_input_is_float,
    pad_before_convolution,
    pad_before_pool,
)
from fsg.export.pipeline import test_images
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.export.verify import compare, require_agreement, signs_near_zero
from fsg.runtime.measure.records import Model
from fsg.runtime.model.evaluate import normalize
from fsg.runtime.model.files import report_beside
from fsg.runtime.model.metadata import add_tflite_metadata, read_metadata
from fsg.runtime.model.session import open_model
from fsg.training.checkpoint import digest
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import Dataset, options_of_model
from fsg.training.run import Run, open_run

GAINS = {"float32": 2.0**40, "int8": 2.0**12}
"""Of the signs. float32: what a batch normalisation gives is larger than 2^-37 or 0. int8: the smallest number that
differs from 0 has to reach the end of the scale, and XNNPACK wants the ratio of the scales below 256."""
CALIBRATION_IMAGES = 100


def with_baselines(
    models: Iterable[Model],
    numbers: str,
    *,
    data_dir: str | None = None,
    load: Callable[..., Dataset] = load_dataset,
    show: Callable[[str], object] = lambda text: None,
) -> list[Model]:
    """The models to measure, each .tflite followed by its twins in the `numbers` that are named: "float32,int8".

    Errors: FsgError for other numbers, a file that belongs to no run, and a run that was trained on since its export.
    """
    kinds = dict.fromkeys(kind.strip() for kind in numbers.split(","))
    if not kinds.keys() <= GAINS.keys():
        raise FsgError(f"--baseline {numbers}: choose float32, int8 or float32,int8")
    found: list[Model] = []
    for model in models:
        found.append(model)
        if model.path.suffix != ".tflite":
            continue
        run = run_of(model.path)
        if report_beside(model.path).get("checkpoint", digest(run)) != digest(run):
            again = shell_command("export", run, "--format", "tflite")
            raise FsgError(
                f"{model.path}: the run was trained on since, and a baseline would be another network: {again}"
            )
        for kind in kinds:
            path = baseline(run, kind, data_dir=data_dir, load=load, on_step=show)
            found.append(Model(path, kind, model.path))
    return found


def run_of(path: Path) -> Path:
    """The folder of the run that a model file was exported from; FsgError where none is to be found."""
    said = report_beside(path).get("run")
    for run in (path.parent.parent, Path(said) if isinstance(said, str) else path.parent):
        if (run / "config.toml").is_file():
            return run
    raise FsgError(
        f"{path}: --baseline makes the same network in other numbers from the run it was trained in, and none belongs"
        " to this file; give a run folder, or a file that fsg export wrote into one"
    )


def baseline(
    folder: Path,
    numbers: str,
    *,
    data_dir: str | None = None,
    load: Callable[..., Dataset] = load_dataset,
    on_step: Callable[[str], object] = lambda text: None,
) -> Path:
    """Path of RUN/export/baseline-NUMBERS.tflite, made if it is not there for this very checkpoint.

    Args:
        folder: of the run.
        numbers: "float32", which has to agree with PyTorch as every export does, or "int8".

    Errors: FsgError for a run that cannot be exported, missing packages, and a file that disagrees.
    """
    path = folder / "export" / f"baseline-{numbers}.tflite"
    source = digest(folder)
    if path.exists() and _metadata(path).get("checkpoint") == source:
        return path
    on_step(f"making the {numbers} twin of {folder}")
    run = open_run(folder)
    if run.config.int8_aware:
        raise FsgError(f"{folder} was trained with --int8-aware, for which there is no baseline: leave --baseline away")
    images, labels, expected = test_images(run, data_dir, load)
    calibration = _calibration_images(run, data_dir, load) if numbers == "int8" else images[:0]
    graph = without_bits(run, GAINS[numbers])
    if numbers == "int8":
        graph = padded_within_range(graph, calibration)
    content = converter().convert("float", graph, numbers, calibration)
    make_folder(path.parent)
    with replacing(path) as temporary:
        candidate = temporary.with_suffix(".tflite")  # sessions go by the suffix
        try:
            candidate.write_bytes(content)
            logits = open_model(candidate)(images)
        finally:
            candidate.unlink(missing_ok=True)
        if numbers == "float32":
            near_zero = lambda chosen: signs_near_zero(graph, images[chosen])  # noqa: E731
            verify = require_agreement(path.name, logits, expected, labels, near_zero)
        else:
            verify = compare(logits, expected, labels)
        metadata = {**run.metadata, "numbers": numbers, "checkpoint": source, "verify": verify}
        temporary.write_bytes(add_tflite_metadata(content, metadata))
    return path


def without_bits(run: Run, gain: float) -> BinaryGraph:
    """The graph of a run's model with float operations only, ready for TensorFlow Lite's converter."""
    graph = float_where_input_is_float(simplify(trace(run.model, run.data.shape)))
    return pad_before_convolution(pad_before_pool(bits_as_floats(graph, gain)))


def padded_within_range(graph: BinaryGraph, images: Floats) -> BinaryGraph:
    """The same with maximum pools padded by the least value seen on images, where the lowest number there is would
    leave no steps to the values beside it."""
    lowest = float(np.finfo(np.float32).min)
    chosen = {node.name: node.inputs[0] for node in graph.nodes if isinstance(node, Pad) and node.value == lowest}
    least = dict.fromkeys(chosen, np.inf)
    for image in images if chosen else ():
        values = run_graph(graph, image[None])
        least = {name: min(least[name], float(values[source].min())) for name, source in chosen.items()}

    def rule(node: Node) -> list[Node]:
        return [replace(node, value=least[node.name])] if isinstance(node, Pad) and node.name in least else [node]

    return rewrite(graph, rule)


def _calibration_images(run: Run, data_dir: str | None, load: Callable[..., Dataset]) -> Floats:
    where = data_dir or run.config.data_dir or None
    data = load(run.config.dataset, data_dir=where, options=options_of_model(run.metadata))
    chosen = evenly(len(data.x_train), CALIBRATION_IMAGES)
    return normalize(data.x_train[chosen], run.data.mean, run.data.std)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return read_metadata(path)
    except FsgError:  # damaged: it is made anew
        return {}
