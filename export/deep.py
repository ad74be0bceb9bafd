"""Compares every value within a network, not its results alone: the first that differs names the layer.

Each node is computed from the values that PyTorch, or the file, has for its inputs. So a difference is the node's own,
signs are of the very same numbers, and rounding does not add up from layer to layer.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.export.formats.c.calls import SIGNS
from fsg.export.formats.c.write import to_watched_c
from fsg.export.graph import BinaryGraph, Floats
from fsg.export.int8 import KEEP
from fsg.export.reference import compute, run_graph
from fsg.runtime.model.c import CompiledModel
from fsg.runtime.model.files import SUFFIXES
from fsg.runtime.model.packed.interpret import Interpreter
from fsg.runtime.model.packed.read import parse_packed
from fsg.runtime.model.tflite import tensors_of

IMAGES = 8
"""How many images every value is compared on."""

LIMIT = 1e-4
"""Of a difference, as a share of the largest number that the node gives."""

HALVES = 1e-2
"""Share of a node's integers that may be one beside: for sums halfway between two, runtimes round otherwise."""


def check_values(graph: BinaryGraph, values: dict[str, Floats], images: Floats, where: str) -> int:
    """Compares every node with the value of its name, on images [N, C, H, W]; returns how many values that were.

    Errors: FsgError that names `where`, the first node that differs, the image and the channel.
    """
    have = {graph.nodes[0].name: images}
    unseen: dict[str, float] = {}  # steps of integers that no value is known of
    compared = 0
    for node in graph.nodes[1:]:
        meant = compute(node, [have[name] for name in node.inputs])
        found = values.get(node.name)
        step = unseen.get(node.inputs[0]) if isinstance(node, KEEP) else getattr(node, "step", None)
        if found is None or found.shape != meant.shape:
            have[node.name] = meant
            if step:
                unseen[node.name] = step
            continue
        have[node.name] = found
        compared += 1
        difference = np.abs(found - meant)
        limit = LIMIT * float(np.abs(meant).max(initial=0)) + 1e-6
        if step and (difference > limit).mean() <= HALVES:
            limit += step
        if not difference.max(initial=0) <= limit:
            image, *place = (int(i) for i in np.unravel_index(np.nanargmax(difference), difference.shape))
            channel = f", channel {place[0]}" if place else ""
            raise FsgError(
                f"{where} differs first at {node.name} ({type(node).__name__}), image {image}{channel}:"
                f" {found[(image, *place)]:.6g} instead of {meant[(image, *place)]:.6g}, where {limit:.1e} is allowed;"
                " nothing was exported"
            )
    return compared


def check_file(name: str, writer: str, graph: BinaryGraph, content: bytes, images: Floats) -> int:
    """Compares every node with what a .onnx or .fsg file, or a .tflite file written directly, has there.

    Of a model.c, values that it does not keep are those of one that keeps them and does all else alike.

    Of what LCE's converter wrote nobody knows which value is which; 0 is returned. Errors: as `check_values`.
    """
    if name == "onnx":
        values = _onnx_values(content, images)
        values |= {graph.nodes[0].name: images, graph.nodes[-1].name: values.pop("logits")}
    elif name == "packed":
        values = Interpreter(parse_packed("model.fsg", content)).values(images)
    elif name == "c":
        values = _c_values(graph, images)
    elif writer == "direct":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(content)
            values = tensors_of(path, images)
        values |= {graph.nodes[0].name: images, graph.nodes[-1].name: values.pop("logits")}
    else:
        return 0
    return check_values(graph, values, images, f"model{SUFFIXES[name]}")


def _c_values(graph: BinaryGraph, images: Floats) -> dict[str, Floats]:
    """Every value that C code of the graph computes and a node is named after, by that name; signs are -1 and 1."""
    source, header, seen = to_watched_c(graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.c"
        path.write_text(source, encoding="utf-8")
        path.with_suffix(".h").write_text(header, encoding="utf-8")
        found = CompiledModel(path).watch(images, [(tensor.shape, tensor.kind) for _, tensor in seen])
    values, shapes = {}, run_graph(graph, images[:1])
    for (name, tensor), value in zip(seen, found, strict=True):
        if tensor.kind == SIGNS:
            value = 1.0 - 2.0 * np.unpackbits(value, axis=-1, bitorder="little").astype(np.float32)
            if name in shapes:  # what fills up a byte is no channel
                value = value[..., : shapes[name].shape[1]]
        values[name] = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
    return values


def _onnx_values(content: bytes, images: Floats) -> dict[str, Floats]:
    """Every value of float32 in a .onnx file, by name."""
    import onnx
    import onnxruntime

    model: Any = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    outputs = {value.name for value in model.graph.output}
    constants = {value.name for value in model.graph.initializer}
    for value in model.graph.value_info:
        is_float = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        if is_float and value.name not in outputs | constants:
            model.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[0]
    step = size if isinstance(size, int) else len(images)
    names = [output.name for output in session.get_outputs()]
    parts = []
    for start in range(0, len(images), step):
        part = images[start : start + step]
        missing = step - len(part)
        part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
        parts.append(session.run(names, {"image": part}))
    joined = {}
    for name, values in zip(names, zip(*parts, strict=True), strict=True):
        whole = [value for value in values if value.shape[:1] == (step,)]
        if len(whole) == len(values):
            joined[name] = np.concatenate(whole)[: len(images)]
    return joined
