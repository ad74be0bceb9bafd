"""Reads and checks a packed-sign file: nothing in it is used before it is known to fit."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.runtime.model.files import DAMAGE, read_bytes
from fsg.runtime.model.packed.bits import unpack
from fsg.runtime.model.packed.rules import RULES, WITH_STEPS, Shape, check_size, require, wholes

VERSIONS = ("1", "2", "3")
"""Of the format: the second has weights of int8, the third layers that compute with integers."""
FORMAT = "fsg-packed"
SHOWN = 200
"""Letters of an error."""

_TYPES = {"F32": "<f4", "U32": "<u4", "I8": "|i1", "I32": "<i4"}


class PackedNode(SimpleNamespace):
    """A node: name, op, inputs, shape, and the attributes and tensors that docs/packed.md lists for its operator.

    A binary layer has its weights as the file does, `negative` [O, words] of 32 bits.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape
    negative: NDArray[np.uint32]

    def weights(self, size: Shape) -> NDArray[np.bool_]:
        """Which of the weights are -1, [O, I/groups, KH, KW] of convolutions, [O, I] of dense layers; `size` is that of
        the input."""
        if self.op == "BinaryDense":
            return unpack(self.negative, size[-1])
        channels = size[1] // self.groups
        rows = unpack(self.negative, channels * math.prod(self.kernel))
        return rows.reshape(len(rows), *self.kernel, channels).transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class PackedFile:
    """The nodes in the order in which they are computed, the first the image and the last the result; and metadata."""

    nodes: tuple[PackedNode, ...]
    metadata: dict[str, Any]


def read_packed(path: str | Path) -> PackedFile:
    """The checked content of a .fsg file. Errors: FsgError where it cannot be read, or is not as specified."""
    return parse_packed(path, read_bytes(path))


def parse_packed(path: str | Path, content: bytes) -> PackedFile:
    """As `read_packed`, of a file's content."""
    try:
        about, tensors = _container(content)
        require(about.get("format") == FORMAT, "it says nothing of fsg's packed signs")
        if (version := about.get("version", "none")) not in VERSIONS:
            known = ", ".join(VERSIONS)
            raise FsgError(
                f"{path}: is of version {_shown(version)} of the format, and this fsg reads {known}: update fsg, or"
                " export it again"
            )
        metadata = _json(about["metadata"])
        require(isinstance(metadata, dict), "its metadata are no object")
        nodes = _nodes(_json(about["graph"]), tensors)
        require(not tensors, f"no node has {next(iter(tensors), '')}")
    except (*DAMAGE, KeyError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise FsgError(f"{path}: truncated or damaged ({_shown(what)}); export or copy it again") from error
    return PackedFile(nodes, metadata)


def _shown(text: str) -> str:
    """A line that a terminal may be given, of whatever a file says."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:SHOWN])


def _json(text: str | bytes) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        require(len(found) == len(pairs), "a name is there twice")
        return found

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


def _container(content: bytes) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """What a safetensors file says about itself, and its tensors, which are views of the content."""
    require(len(content) >= 8, "it has no header")
    length = int.from_bytes(content[:8], "little")
    require(length <= len(content) - 8, "it ends within its header")
    header = _json(content[8 : 8 + length].decode())
    require(isinstance(header, dict), "its header is no object")
    about = header.pop("__metadata__")
    strings = isinstance(about, dict) and all(isinstance(text, str) for text in about.values())
    require(strings, "its __metadata__ are not all texts")
    data = memoryview(content)[8 + length :]
    tensors: dict[str, NDArray[Any]] = {}
    at = 0
    for name, entry in header.items():
        kind, shape = _TYPES[entry["dtype"]], wholes()(entry["shape"])
        start, end = wholes(2)(entry["data_offsets"])
        # In Python's numbers, which cannot overflow.
        require(
            start == at and end - start == int(kind[-1]) * math.prod(shape) and end <= len(data),
            f"{name} is not where it says",
        )
        tensors[name] = np.frombuffer(data[start:end], kind).reshape(shape).astype(kind.replace("<", "="), copy=False)
        at = end
    require(at == len(data), "there is more behind its tensors")
    return about, tensors


def _nodes(graph: Any, tensors: dict[str, NDArray[Any]]) -> tuple[PackedNode, ...]:
    """The nodes of a graph, which take their tensors out of `tensors`."""
    require(isinstance(graph, list) and len(graph) > 0, "its graph is no list of nodes")
    shapes: dict[str, Shape] = {}
    nodes = []
    for entry in graph:
        require(isinstance(entry, dict), "a node is no object")
        name = entry.get("name")
        require(isinstance(name, str) and name not in shapes, f"there is no one node {name!r}")
        try:
            node = _node(entry, shapes, tensors)
        except (*DAMAGE, KeyError) as error:
            what = f"{error} is missing or unknown" if isinstance(error, KeyError) else error
            raise ValueError(f"node {name}: {what}") from error
        shapes[node.name] = node.shape
        nodes.append(node)
    return tuple(nodes)


def _stepped(whole: NDArray[np.int8], steps: NDArray[Any]) -> NDArray[np.float32]:
    """Integers [O, ...] times the steps [O] of their channels."""
    fits = steps.dtype == np.float32 and steps.shape == whole.shape[:1]
    require(fits, f"step is {steps.dtype} {list(steps.shape)}")
    return whole * steps.reshape(-1, *[1] * (whole.ndim - 1))


def _node(entry: dict[str, Any], shapes: dict[str, Shape], tensors: dict[str, NDArray[Any]]) -> PackedNode:
    given = dict(entry)
    name, op, shape = given.pop("name"), given.pop("op"), check_size(wholes(None, 1)(given.pop("shape")))
    if not shapes:
        require(op == "Input" and len(shape) == 4 and shape[0] == 1 and not given, "the first is no Input [1, C, H, W]")
        return PackedNode(name=name, op=op, inputs=(), shape=shape)
    rule = RULES[op]
    before = next(reversed(shapes))
    inputs = given.pop("inputs", [before] if rule.inputs != 0 else [])
    require(isinstance(inputs, list), "its inputs are no list")
    require(len(inputs) == rule.inputs or (rule.inputs is None and len(inputs) > 0), f"it has {len(inputs)} inputs")
    read: dict[str, Any] = {}
    for attribute, kind in rule.attributes.items():
        value = given.pop(attribute) if attribute in given else rule.defaults[attribute]
        read[attribute] = kind(value)
    require(not given, f"{next(iter(given), '')} is none of its attributes")
    for tensor, axes in rule.tensors.items():
        read[tensor] = tensors.pop(f"{name}.{tensor}")
        if tensor == "weight" and op in WITH_STEPS and read[tensor].dtype == np.int8:
            read[tensor] = _stepped(read[tensor], tensors.pop(f"{name}.step"))
        wanted = rule.kinds.get(tensor, np.float32)
        fits = (
            read[tensor].dtype == wanted and axes in (None, read[tensor].ndim) and (axes is None or read[tensor].size)
        )
        require(bool(fits), f"{tensor} is {read[tensor].dtype} {list(read[tensor].shape)}")
    node = PackedNode(name=name, op=op, inputs=tuple(inputs), shape=shape, **read)
    computed = tuple(rule.shape(node, [shapes[source] for source in inputs]))
    require(computed == shape, f"its shape is {list(computed)}, not {list(shape)}")
    return node
