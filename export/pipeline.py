"""From a run to verified artefacts and report.json."""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fsg
from fsg import TEMPORARY, FsgError, make_folder, remove_stale, replacing
from fsg.export import deep
from fsg.export.formats.onnx import to_onnx
from fsg.export.formats.packed import to_packed
from fsg.export.formats.tflite.write import prepare, to_tflite
from fsg.export.graph import (
    Affine,
    Arithmetic,
    AveragePool,
    BinaryConv,
    BinaryGraph,
    BinaryLayer,
    Concat,
    Conv,
    Dense,
    Elementwise,
    Floats,
    Input,
    MaxPool,
    Node,
    Pad,
    Reduce,
    Reshape,
    Sign,
)
from fsg.export.options import FORMATS
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.export.verify import MIN_AGREEMENT, require_agreement, signs_near_zero
from fsg.runtime.model.evaluate import match_labels, normalize
from fsg.runtime.model.exported import DEPTHWISE
from fsg.runtime.model.files import SUFFIXES, file_digest, read_object
from fsg.runtime.model.metadata import add_tflite_metadata
from fsg.runtime.model.packed.read import read_packed
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts
from fsg.training.checkpoint import digest
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import Dataset, resized
from fsg.training.networks.layers import float_size
from fsg.training.run import Run, evaluation_batch, predict

MAX_SAMPLES = 1000


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
    PyTorch model on up to 1000 images of the test split before it takes its place. Errors: FsgError for a model that
    cannot be exported and for an artefact that disagrees; then `folder` is as it was.
    """
    _check_settings(formats, **how)
    on_step("reading the test images")
    checkpoint = digest(run.path)
    images, labels, expected = test_images(run, data_dir, spec=dataset)
    about = {
        "run": str(run.path),
        "checkpoint": checkpoint,
        "model": run.config.model,
        "dataset": dataset or run.config.dataset,
        "activation_bits": run.config.activation_bits,
        "hypernetwork_parameters_discarded": run.hypernetwork_parameters,
    }
    return _export(run.model, folder, formats, (images, labels, expected), run.metadata, about, on_step=on_step, **how)


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
    number, of .onnx files. `writer` is one of `formats.tflite.write.WRITERS`. `verify` "deep" also compares every value
    within the network. Errors: as `export_run`.
    """
    _check_settings(formats, **how)
    if images is None:
        images = np.random.default_rng(0).standard_normal((64, *shape), np.float32)
    if images.ndim != 4 or images.shape[1:] != tuple(shape) or len(images) < 2:
        raise FsgError(f"images of shape {list(images.shape)} are not two or more of {list(shape)}; give such ones")
    training = model.training
    expected = predict(model, torch.from_numpy(images)).numpy()
    model.train(training)
    expected = expected.reshape(len(images), -1)
    known = {**(metadata or {}), "input_shape": [1, *shape]}
    return _export(model, Path(folder), formats, (images, expected.argmax(1), expected), known, {}, **how)


def _check_settings(
    formats: Collection[str],
    *,
    opset: int | None = None,
    batch: int | None = 1,
    writer: str = "auto",
    verify: str = "logits",
) -> None:
    """Raises FsgError for settings of a format that is not asked for; starts what takes a while to start."""
    if unknown := set(formats) - set(FORMATS):
        raise FsgError(f"there is no format {unknown.pop()!r}; formats are {', '.join(FORMATS)}")
    if opset is not None and "onnx" not in formats:
        raise FsgError("--opset is of .onnx files: add --format onnx, or leave it away")
    if batch is None and "tflite" in formats:
        raise FsgError("--batch free is of .onnx files, and a .tflite takes a fixed number: give --format onnx alone")
    if writer != "auto" and "tflite" not in formats:
        raise FsgError("--writer is of .tflite files: add --format tflite, or leave it away")
    prepare(formats, writer)


def _export(
    model: nn.Module,
    folder: Path,
    formats: Collection[str],
    trial: tuple[Floats, NDArray[np.int64], Floats],
    metadata: dict[str, Any],
    about: dict[str, Any],
    *,
    opset: int | None = None,
    batch: int | None = 1,
    writer: str = "auto",
    verify: str = "logits",
    on_step: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """What every export does, given images, their labels and what PyTorch computes for them; `about` is reported."""
    images, labels, expected = trial
    on_step("reading the graph")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    read = trace(model, shape)
    graph = simplify(read)
    some = images[: min(len(images) // 2 * 2, deep.IMAGES)]

    def read_rightly() -> int:
        on_step("comparing every layer with PyTorch")
        return deep.check_reading(model, read, some)

    if verify == "deep":
        read_rightly()

    def near_zero(chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
        return signs_near_zero(graph, images[chosen])

    reference = _reference(graph, images).reshape(expected.shape)
    require_agreement("the graph read from the model", reference, expected, labels, near_zero, read_rightly)

    metadata = metadata | {"input_shape": [batch, *shape]}
    write: dict[str, Callable[[], tuple[bytes, str]]] = {
        "tflite": lambda: to_tflite(graph, writer=writer, batch=batch or 1),
        "onnx": lambda: (to_onnx(graph, metadata, opset=opset, batch=batch), "onnx"),
        "packed": lambda: (to_packed(graph, metadata), "packed"),
    }
    artefacts: list[dict[str, Any]] = []
    with _room_in(folder) as room:
        for name in dict.fromkeys(formats):
            on_step(f"converting to {name}")
            path = room / f"model{SUFFIXES[name]}"
            content, by = write[name]()

            def written_rightly(path: Path = path, name: str = name, by: str = by, content: bytes = content) -> int:
                on_step(f"comparing every value in {path.name} with its meaning")
                return deep.check_file(name, by, graph, content, some)

            compared = written_rightly() if verify == "deep" else None
            with replacing(path) as target:
                target.write_bytes(add_tflite_metadata(content, metadata) if name == "tflite" else content)
            on_step(f"comparing {path.name} with PyTorch on {len(images)} test images")
            logits = open_model(path)(images).reshape(expected.shape)
            found = require_agreement(path.name, logits, expected, labels, near_zero, written_rightly)
            if by == "lce" and verify == "deep":
                on_step(f"comparing {path.name} with what fsg writes directly")
                (room / "direct.tflite").write_bytes(to_tflite(graph, writer="direct")[0])
                direct = open_model(room / "direct.tflite")(images).reshape(expected.shape)
                require_agreement(f"{path.name} of LCE's converter", logits, direct, labels, near_zero)
            artefacts.append(
                {
                    "format": name,
                    "writer": by,
                    "path": str(folder / path.name),
                    "size_bytes": path.stat().st_size,
                    "sha256": file_digest(path),
                    "ops": _operators(path, name),
                    "verify": found | ({} if compared is None else {"values_compared": compared}),
                }
            )
        for artefact in artefacts:
            path = Path(artefact["path"])
            with replacing(path) as target:
                (room / path.name).replace(target)
    report = {
        "fsg_version": fsg.__version__,
        **about,
        "layers": _layers(graph),
        "not_on_bits": not_on_bits(graph),
        "float_size_bytes": float_size(model),
        "artefacts": _with_others(folder, about.get("checkpoint"), artefacts),
    }
    with replacing(folder / "report.json") as target:
        target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _with_others(folder: Path, checkpoint: str | None, artefacts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The artefacts, and those of other formats that an earlier export of the same weights has left in the folder."""
    with suppress(FsgError, KeyError, TypeError):
        earlier = read_object(folder / "report.json")
        if checkpoint and earlier["checkpoint"] == checkpoint:
            formats = {artefact["format"] for artefact in artefacts}
            for other in earlier["artefacts"]:
                path = folder / Path(other["path"]).name
                if other["format"] not in formats and path.exists() and file_digest(path) == other["sha256"]:
                    artefacts = [*artefacts, other]
    return artefacts


def test_images(
    run: Run, data_dir: str | None = None, load: Callable[..., Dataset] = load_dataset, spec: str | None = None
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Up to 1000 normalised images of the test split, their labels, and the logits that PyTorch computes.

    Errors: FsgError for data that do not fit the run, and where its accuracy is not the recorded one.
    """
    spec = spec or run.config.dataset
    data = load(spec, data_dir=data_dir or run.config.data_dir or None, test_only=True)
    data = resized(data, run.config.image_size)
    if data.shape != run.data.shape:
        raise FsgError(f"{spec}: images are {list(data.shape)}, the run was trained on {list(run.data.shape)}")
    chosen = np.linspace(0, len(data.x_test) - 1, min(len(data.x_test), MAX_SAMPLES)).astype(int)
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


@contextmanager
def _room_in(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, which is made for it and goes again if the block fails."""
    existed = folder.exists()
    make_folder(folder)
    remove_stale(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY) as room:
            yield Path(room)
    except BaseException:
        if not existed:
            with suppress(OSError):
                folder.rmdir()
        raise


def _reference(graph: BinaryGraph, images: Floats) -> Floats:
    last = graph.nodes[-1].name
    size = -(-evaluation_batch(torch.from_numpy(images)) // 4)  # every value of the graph stays in memory
    batches = (images[start : start + size] for start in range(0, len(images), size))
    return np.concatenate([run_graph(graph, batch)[last] for batch in batches])


def _operators(path: Path, name: str) -> dict[str, int]:
    """How often each operator is in a file of the format `name`."""
    if name == "tflite":
        return op_counts(path)
    if name == "packed":
        return dict(Counter(node.op for node in read_packed(path).nodes).most_common())
    import onnx

    return dict(Counter(node.op_type for node in onnx.load(path).graph.node).most_common())


def _layers(graph: BinaryGraph) -> dict[str, int]:
    """How many layers run on bits, and how many stay float."""
    layers = [node for node in graph.nodes if isinstance(node, (BinaryLayer, Conv, Dense))]
    bits = graph.count(BinaryLayer) - len(not_on_bits(graph))
    return {"bitwise": bits, "float": len(layers) - bits}


def not_on_bits(graph: BinaryGraph) -> dict[str, str]:
    """The binary layers that do not run on bits, and why: what the input is that is no sign, or `DEPTHWISE`."""
    reasons = {}
    for node in graph.nodes:
        if isinstance(node, BinaryLayer) and not graph.takes_bits(node):
            reasons[node.name] = _in_words(graph, graph[node.inputs[0]])
        elif isinstance(node, BinaryConv) and node.groups > 1 and node.negative.shape[1] == 1:
            reasons[node.name] = DEPTHWISE
    return reasons


def _in_words(graph: BinaryGraph, node: Node) -> str:
    """What a value is to people, such as "a sum"; max pools and reshapes are what they are of."""
    while isinstance(node, (MaxPool, Reshape, Pad)):
        node = graph[node.inputs[0]]
    words = {
        Input: "the image",
        Sign: "signs",
        AveragePool: "an average",
        Reduce: "an average",
        Affine: "a batch norm's output",
    }
    if isinstance(node, Arithmetic) and node.operator == "add":
        return "a sum"
    if isinstance(node, Concat):
        kinds = dict.fromkeys(_in_words(graph, graph[name]) for name in node.inputs)
        return f"a concatenation of {' and '.join(kinds)}" if len(kinds) <= 2 else "a concatenation"
    if isinstance(node, Elementwise):
        return f"what {node.operator} gives"
    return words.get(type(node), "another layer's output")
