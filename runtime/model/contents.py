"""What a model file is full of: bits of binary weights, integers, floats, and what is neither."""

import json
import re
from pathlib import Path

from fsg.runtime.model.files import model_format, read_bytes
from fsg.runtime.model.metadata import sizes_of
from fsg.runtime.model.tflite import read_tflite

BITS, INT8, FLOAT, REST = KINDS = ("bits", "int8", "float32", "other")
_OF_PACKED = {"U32": BITS, "I8": INT8, "F32": FLOAT}  # I32 are biases
UINT8 = ".uint8"
"""Ends the names of a .onnx file's bytes that are numbers, not bits."""
_OF_C = {"uint32_t": BITS, "int8_t": INT8, "float": FLOAT}
_CONSTANT = re.compile(r"^static const (\w+) \w+\[\] = \{\n(.*?)\};", re.MULTILINE | re.DOTALL)


def bytes_by_kind(path: Path) -> dict[str, int]:
    """Bytes of a file that fsg exported, by `KINDS`; their sum is its size, of a model.c that of its constants.

    Other are the graph, the metadata, and whole numbers such as thresholds and shapes. Errors: FsgError for a file that
    is damaged.
    """
    read = {"tflite": _tflite, "onnx": _onnx, "packed": _packed, "c": _c}[model_format(path)]
    found = dict.fromkeys(KINDS, 0)
    for kind, count in read(path):
        found[kind] += count
    found[REST] += sizes_of(path)["size_bytes"] - sum(found.values())
    return found


def _tflite(path: Path) -> list[tuple[str, int]]:
    from ai_edge_litert.schema_py_generated import TensorType

    model, names = read_tflite(path)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    filters = {operator.Inputs(1) for operator in operators if names[operator.OpcodeIndex()] == "LceBconv2d"}
    kinds = {TensorType.INT8: INT8, TensorType.FLOAT32: FLOAT}
    found: dict[int, tuple[str, int]] = {}  # by buffer, which tensors may share
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        size = model.Buffers(tensor.Buffer()).DataLength()
        if size:
            found[tensor.Buffer()] = (BITS if i in filters else kinds.get(tensor.Type(), REST), size)
    return list(found.values())


def _onnx(path: Path) -> list[tuple[str, int]]:
    import onnx

    kinds = {onnx.TensorProto.UINT8: BITS, onnx.TensorProto.INT8: INT8, onnx.TensorProto.FLOAT: FLOAT}
    constants = onnx.load(path).graph.initializer
    return [
        (INT8 if one.name.endswith(UINT8) else kinds.get(one.data_type, REST), len(one.raw_data)) for one in constants
    ]


def _packed(path: Path) -> list[tuple[str, int]]:
    content = read_bytes(path)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    return [
        (_OF_PACKED.get(entry["dtype"], REST), entry["data_offsets"][1] - entry["data_offsets"][0]) for entry in tensors
    ]


def _c(path: Path) -> list[tuple[str, int]]:
    found = _CONSTANT.findall(path.read_text(encoding="utf-8"))
    return [(_OF_C.get(kind, REST), (values.count(",") + 1) * (1 if kind == "int8_t" else 4)) for kind, values in found]
