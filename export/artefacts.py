"""From a graph to verified artefacts and report.json, whatever the graph was read from; nothing here needs torch."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fsg
from fsg import TEMPORARY, FsgError, make_folder, remove_stale, replacing
from fsg.export import deep
from fsg.export.formats.c.write import to_c
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
from fsg.export.images import RANDOM_IMAGES, for_calibration
from fsg.export.int8 import int8_layers, int8_weights, learned_layers, signs_moved, with_integer_ends
from fsg.export.options import CHOICES, FORMATS, MAX_BATCH
from fsg.export.passes import on_pixels
from fsg.export.reference import run_graph
from fsg.export.verify import Trial, signs_near_zero
from fsg.runtime.model.c import compiler, functions_called
from fsg.runtime.model.contents import bytes_by_kind
from fsg.runtime.model.evaluate import normalize, to_pixels
from fsg.runtime.model.exported import DEPTHWISE
from fsg.runtime.model.files import REPORT, SUFFIXES, file_digest
from fsg.runtime.model.metadata import add_tflite_metadata, sizes_of
from fsg.runtime.model.packed.read import read_packed
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts

AT_ONCE = 64 * 64 * 64
"""Pixels of the images that the graph computes together: every value of it stays in memory."""

PIXEL_ERROR = 1e-4
"""How far normalised images may be from those of whole pixels: rounding."""

LEARNED = "learned"
"""What `int8` is for networks that were trained with ranges of their own."""

Files = dict[str, bytes]
"""What a format consists of, by suffix; the first is the one that is run."""


def export_graph(
    graph: BinaryGraph,
    folder: Path,
    formats: Collection[str],
    trial: Trial,
    metadata: dict[str, Any],
    about: dict[str, Any],
    *,
    read_from: str,
    read_rightly: Callable[[], int],
    float_size: int,
    earlier: dict[str, Any] | None = None,
    opset: int | None = None,
    batch: int | None = 1,
    writer: str = "auto",
    verify: str = "logits",
    int8: str | None = None,
    io: str = "float",
    input: str = "float",
    calibration: Callable[[], Floats] | None = None,
    on_step: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Writes model files of a graph, and report.json, into `folder`; returns the report, which `about` is in.

    The graph, and every file before it takes its place, is compared with the results of the trial. `read_rightly`
    compares every value of the graph with those of what it was `read_from`. `float_size` is what that takes as float32,
    in bytes. With `int8` "weights" those of float layers are integers in the files, with "layers" what they read and
    give too, on grids chosen by the images that `calibration` returns, and with `LEARNED` on those in the graph. Files
    are then compared with that network in NumPy; an artefact's "int8" says how its decisions compare with the trial's.
    With `input` "uint8" they take raw pixels, and normalise them by the metadata's mean and std.
    `earlier` is a report of the same weights in that folder, whose other artefacts stay in the report.
    """
    images, some = trial.images, trial.images[: min(len(trial.images) // 2 * 2, deep.IMAGES)]
    if verify == "deep":
        read_rightly()

    def near_zero(chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
        return signs_near_zero(graph, images[chosen])

    trial.check(f"the graph read from {read_from}", _reference(graph, images), near_zero, read_rightly)

    layers = {"layers": _layers(graph), "not_on_bits": not_on_bits(graph)}
    integers: dict[str, Any] = {}
    if int8:
        graph, rounding = _on_integers(graph, int8, io, calibration, trial, on_step)
        what = "layers" if int8 == LEARNED else int8
        expected = _reference(graph, images).reshape(trial.expected.shape)
        whole = Trial(images, trial.labels, expected, f"the network with int8 {what}", trial.dataset)
        integers = {"int8": {"what": what, "source": trial.source, **trial.compared(whole.expected), **rounding}}
        trial = whole
    integer_ends = io == "int8"
    if integer_ends:
        ends: list[Any] = [graph.nodes[1], graph.nodes[-1]]
        grids = ([end.step, end.zero] for end in ends)
        metadata = metadata | dict(zip(("input_grid", "output_grid"), grids, strict=True))
    outer = graph
    if input == "uint8":
        outer = on_pixels(graph, *_statistics(metadata, images))
        metadata = metadata | {"input": input}

    # Each writes its file, or that file as it is within its ends, which take and give floats.
    def tflite(within: bool = False) -> tuple[Files, str]:
        by_whom = "direct" if int8 or input == "uint8" else writer
        ends = integer_ends and not within
        content, by = to_tflite(graph if within else outer, writer=by_whom, batch=batch or 1, integer_ends=ends)
        return {SUFFIXES["tflite"]: add_tflite_metadata(content, metadata)}, by

    def onnx(within: bool = False) -> tuple[Files, str]:
        ends = integer_ends and not within
        content = to_onnx(graph if within else outer, metadata, opset=opset, batch=batch, integer_ends=ends)
        return {SUFFIXES["onnx"]: content}, "onnx"

    def packed(within: bool = False) -> tuple[Files, str]:
        return {SUFFIXES["packed"]: to_packed(graph, metadata)}, "packed"

    def c(within: bool = False) -> tuple[Files, str]:
        source, header = to_c(graph if within else outer, metadata)
        return {SUFFIXES["c"]: source.encode(), ".h": header.encode()}, "c"

    write: dict[str, Callable[..., tuple[Files, str]]] = {"tflite": tflite, "onnx": onnx, "packed": packed, "c": c}
    artefacts: list[dict[str, Any]] = []
    with _room_in(folder) as room:
        written: list[str] = []
        for name in dict.fromkeys(formats):
            on_step(f"converting to {name}")
            files, by = write[name]()
            suffix, content = next(iter(files.items()))
            path = room / f"model{suffix}"

            def written_rightly(path: Path = path, name: str = name, by: str = by, content: bytes = content) -> int:
                on_step(f"comparing every value in {path.name} with its meaning")
                if integer_ends or outer is not graph:
                    content = next(iter(write[name](within=True)[0].values()))
                return deep.check_file(name, by, graph, content, some)

            compared = written_rightly() if verify == "deep" else None
            for suffix, part in files.items():
                with replacing(path.with_suffix(suffix)) as target:
                    target.write_bytes(part)
                written.append(f"model{suffix}")
            on_step(f"comparing {path.name} with {trial.source} on {len(images)} {trial.kind}s")
            logits = open_model(path)(images)
            found = trial.check(path.name, logits, near_zero, written_rightly)
            if by == "lce" and verify == "deep":
                on_step(f"comparing {path.name} with what fsg writes directly")
                (room / "direct.tflite").write_bytes(to_tflite(graph, writer="direct")[0])
                direct = open_model(room / "direct.tflite")(images).reshape(trial.expected.shape)
                Trial(images, trial.labels, direct, "the file written directly", trial.dataset).check(
                    f"{path.name} of LCE's converter", logits, near_zero
                )
            artefacts.append(
                {
                    "format": name,
                    "writer": by,
                    "path": str(folder / path.name),
                    **sizes_of(path),
                    "bytes": bytes_by_kind(path),
                    **integers,
                    "sha256": file_digest(path),
                    "ops": _operators(path, name),
                    "verify": found | ({} if compared is None else {"values_compared": compared}),
                }
            )
        for name in written:
            with replacing(folder / name) as target:
                (room / name).replace(target)
    report = {
        "fsg_version": fsg.__version__,
        **about,
        **layers,
        "float_size_bytes": float_size,
        "artefacts": _with_others(folder, earlier or {}, artefacts),
    }
    with replacing(folder / REPORT) as target:
        target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _on_integers(
    graph: BinaryGraph,
    int8: str,
    io: str,
    calibration: Callable[[], Floats] | None,
    trial: Trial,
    on_step: Callable[[str], object],
) -> tuple[BinaryGraph, dict[str, Any]]:
    """The graph with its float layers on integers, and what is to be reported of how that was done."""
    if int8 == "weights":
        on_step("computing the network with int8 weights")
        return int8_weights(graph), {}
    some = for_calibration(trial.images)
    if int8 == LEARNED:
        on_step("computing the network with int8 layers")
        graph = learned_layers(graph)
        return (with_integer_ends(graph, some) if io == "int8" else graph), {"ranges": "learned"}
    if calibration is None:
        raise FsgError(
            "--int8 layers chooses its ranges by images, and there are none: give --dataset (in Python images), or"
            " --int8 weights, which needs none"
        )
    on_step("reading images to choose ranges by")
    images = calibration()
    on_step(f"choosing the ranges of integers on {len(images)} images")
    graph = int8_layers(graph, images)
    graph = with_integer_ends(graph, images) if io == "int8" else graph
    on_step("computing the network with int8 layers")
    signs, moved = signs_moved(graph, some)
    return graph, {"ranges": "chosen", "calibration_images": len(images), "signs_of_int8": signs, "signs_moved": moved}


def _statistics(metadata: dict[str, Any], images: Floats) -> tuple[list[float], list[float]]:
    """Mean and std of the metadata; FsgError where they are not there, or the images are no pixels that they made."""
    mean, std = (metadata.get(name) or [] for name in ("mean", "std"))
    if not len(mean) == len(std) == images.shape[1]:
        raise FsgError("--input uint8 normalises by the mean and std of the metadata, and there are none: give them")
    if np.abs(normalize(to_pixels(images, mean, std), mean, std) - images).max() > PIXEL_ERROR:
        raise FsgError("--input uint8: the images to compare on are no pixels, normalised by mean and std: give such")
    return mean, std


def _with_others(folder: Path, earlier: dict[str, Any], artefacts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The artefacts, and those of other formats in an earlier report that are still in the folder."""
    formats = {artefact["format"] for artefact in artefacts}
    with suppress(FsgError, KeyError, TypeError):
        for other in earlier["artefacts"]:
            path = folder / Path(other["path"]).name
            if other["format"] not in formats and path.exists() and file_digest(path) == other["sha256"]:
                artefacts = [*artefacts, other]
    return artefacts


def check_settings(
    formats: Collection[str],
    *,
    opset: int | None = None,
    batch: int | None = 1,
    writer: str = "auto",
    verify: str = "logits",
    int8: str | None = None,
    io: str = "float",
    input: str = "float",
) -> None:
    """Raises FsgError for settings of a format that is not asked for; starts what takes a while to start."""
    if unknown := set(formats) - set(FORMATS):
        raise FsgError(f"there is no format {unknown.pop()!r}; formats are {', '.join(FORMATS)}")
    given = {"writer": writer, "verify": verify, "int8": int8, "io": io, "input": input}
    for name, value in given.items():
        known = (None, *CHOICES[name]) if name == "int8" else CHOICES[name]
        if value not in known:
            raise FsgError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, known))}")
    if batch is not None and (type(batch) is not int or not 1 <= batch <= MAX_BATCH):
        raise FsgError(f"batch is {batch!r}; it must be a number of images from 1 to {MAX_BATCH}, or None for any")
    if opset is not None and "onnx" not in formats:
        raise FsgError("--opset is of .onnx files: add --format onnx, or leave it away")
    if batch is None and "tflite" in formats:
        raise FsgError("--batch free is of .onnx files, and a .tflite takes a fixed number: give --format onnx alone")
    if "c" in formats:
        if batch != 1:
            raise FsgError("a model.c takes one image at a time: leave --batch or --format c away")
        compiler()
    if writer != "auto" and "tflite" not in formats:
        raise FsgError("--writer is of .tflite files: add --format tflite, or leave it away")
    if int8 == "layers" and "c" in formats:
        raise FsgError(
            "a model.c computes float layers in float32: --int8 weights stores theirs as integers there, too"
        )
    if io == "int8" and int8 != "layers":
        raise FsgError("--io int8 is of networks on integers: add --int8 layers, or leave it away")
    if io == "int8" and not {"tflite", "onnx"}.issuperset(formats):
        raise FsgError("--io int8 is of .tflite and .onnx files: leave the other formats away")
    if input == "uint8":
        if io == "int8":
            raise FsgError("--io int8 has images on a grid of its own: leave it or --input uint8 away")
        if "packed" in formats:
            raise FsgError("--input uint8 is of .tflite, .onnx and .c files: leave --format packed away")
    by_fsg = "--int8" if int8 else "--input uint8" if input == "uint8" else ""
    if by_fsg and writer == "lce":
        raise FsgError(f"{by_fsg} is written by fsg itself: leave --writer lce away")
    prepare(formats, "direct" if by_fsg else writer)


def check_on_integers(formats: Collection[str], int8: str | None, writer: str, why: str, instead: str) -> None:
    """Raises FsgError for settings that a network which has its float layers on integers cannot be exported with.

    `why` it has these, and what to do `instead`, are for the message.
    """
    if "c" in formats:
        raise FsgError(f"{why}, which a model.c does not have: leave --format c away, or {instead}")
    if int8:
        raise FsgError(f"{why}: leave --int8 {int8} away")
    if writer == "lce":
        raise FsgError(f"{why}, which fsg itself writes: leave --writer lce away")


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
    last, (height, width) = graph.nodes[-1].name, images.shape[2:]
    size = min(RANDOM_IMAGES, max(1, AT_ONCE // (height * width)))
    batches = (images[start : start + size] for start in range(0, len(images), size))
    return np.concatenate([run_graph(graph, batch)[last] for batch in batches])


def _operators(path: Path, name: str) -> dict[str, int]:
    """How often each operator is in a file of the format `name`."""
    if name == "tflite":
        return op_counts(path)
    if name == "packed":
        return dict(Counter(node.op for node in read_packed(path).nodes).most_common())
    if name == "c":
        return functions_called(path)
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
