"""BinaryGraph <-> the packed-sign file of docs/packed.md: a bit for each binary weight, what is computed as JSON."""

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg.export import graph as g
from fsg.export.int8 import in_int8
from fsg.export.passes import sign_last
from fsg.runtime.model.packed.bits import pack
from fsg.runtime.model.packed.read import FORMAT, VERSIONS, PackedFile
from fsg.runtime.model.packed.rules import RULES, number, numbers, step

_TYPES = {"float32": "F32", "uint32": "U32", "int8": "I8", "int32": "I32"}


def to_packed(graph: g.BinaryGraph, metadata: dict[str, Any]) -> bytes:
    """The file's content, the same for the same graph and metadata. Signs are moved to where they are read."""
    graph = sign_last(graph)
    nodes: list[dict[str, Any]] = []
    tensors: dict[str, NDArray[Any]] = {}
    for node in graph.nodes:
        entry: dict[str, Any] = {"name": node.name, "op": type(node).__name__, "shape": _plain(node.shape)}
        if node.inputs and list(node.inputs) != [nodes[-1]["name"]]:
            entry["inputs"] = list(node.inputs)
        if not isinstance(node, g.Input):
            rule = RULES[entry["op"]]
            for name in rule.attributes:
                value = _attribute(node, name)
                if value != rule.defaults.get(name):
                    entry[name] = value
            for name in rule.tensors:
                value = getattr(node, name)
                integers = in_int8(value) if name == "weight" and isinstance(node, (g.Conv, g.Dense)) else None
                if integers is not None:
                    tensors[f"{node.name}.weight"], tensors[f"{node.name}.step"] = integers
                    continue
                value = _words(value) if name == "negative" else np.asarray(value, rule.kinds.get(name, np.float32))
                tensors[f"{node.name}.{name}"] = value
        nodes.append(entry)
    computed = any(isinstance(node, (g.Int8Layer, g.Quantize)) for node in graph.nodes)
    version = VERSIONS[2 if computed else any(value.dtype == np.int8 for value in tensors.values())]
    about = {"format": FORMAT, "version": version, "metadata": _json(metadata), "graph": _json(nodes)}
    return _container(about, tensors)


def from_packed(file: PackedFile) -> g.BinaryGraph:
    """The graph of a checked file, node for node: `to_packed` makes the same bytes of it."""
    shapes = {node.name: node.shape for node in file.nodes}
    nodes: list[g.Node] = []
    for node in file.nodes:
        kind: type[g.Node] = getattr(g, node.op)
        values = {field.name: getattr(node, field.name) for field in fields(kind)}
        if issubclass(kind, g.BinaryLayer):
            values["negative"] = np.ascontiguousarray(node.weights(shapes[node.inputs[0]]))
        nodes.append(kind(**values))
    return g.BinaryGraph(tuple(nodes))


def _attribute(node: g.Node, name: str) -> Any:
    """What JSON is to say: axes counted from the front, and floats where numbers need not be whole."""
    if name == "kernel" and isinstance(node, g.BinaryConv):
        return _plain(node.negative.shape[2:])
    value, kind = getattr(node, name), RULES[type(node).__name__].attributes[name]
    if kind in (number, step):
        value = float(value)
    elif kind is numbers:
        value = {setting: float(one) for setting, one in value.items()}
    return value % len(node.shape) if name == "axis" else _plain(value)


def _plain(value: Any) -> Any:
    """Python's own numbers, lists and objects; infinity is the word for it."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _words(negative: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Weights [O, I, KH, KW] or [O, I] as rows of 32-bit words, in the order of rows, columns, channels."""
    rows = np.moveaxis(negative, 1, -1).reshape(len(negative), -1)
    return np.ascontiguousarray(pack(rows).astype("<u8").view("<u4")[:, : -(-rows.shape[1] // 32)])


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _container(about: dict[str, str], tensors: dict[str, NDArray[Any]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": about}
    at = 0
    for name, value in tensors.items():
        header[name] = {
            "dtype": _TYPES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [at, at + value.nbytes],
        }
        at += value.nbytes
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)
    data = [value.astype(value.dtype.newbyteorder("<")).tobytes() for value in tensors.values()]
    return b"".join([len(text).to_bytes(8, "little"), text, *data])
