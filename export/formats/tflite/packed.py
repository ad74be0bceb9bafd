"""Finds binary convolutions whose output can stay bits up to the binary layers that read its sign."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg.export import graph as g
from fsg.export.formats.tflite.lowered import SAME, VALID, place
from fsg.export.reference import compute

AT_ONCE = 1 << 22  # values


@dataclass(frozen=True)
class Chain:
    """A layer that writes the bits of `sign`: those whose popcount is above `thresholds` [O], with weights that are
    -1 where `negative`. `pools` stand in between and work on bits."""

    sign: str
    between: tuple[str, ...]
    pools: tuple[g.MaxPool, ...]
    negative: NDArray[np.bool_]
    thresholds: NDArray[np.int32]


def padding_of(graph: g.BinaryGraph, node: g.BinaryConv) -> tuple[int, g.Sides]:
    """SAME or VALID, and for VALID the sides to pad before the sign."""
    sizes = graph[node.inputs[0]].shape[2:]
    padding, sides = place(sizes, node.negative.shape[2:], node.stride, node.dilation, node.padding, node.shape[2:])
    if padding == SAME and node.padding_value in (0, 1):
        return SAME, (0, 0, 0, 0)
    return VALID, sides


def find_chains(graph: g.BinaryGraph) -> dict[str, Chain]:
    """The chains by the name of the layer that they begin with."""
    found = {}
    for node in graph.nodes:
        if isinstance(node, g.BinaryConv) and graph.takes_bits(node) and node.groups == 1:
            is_zero_padded = node.padding_value == 0 and padding_of(graph, node)[0] == SAME
            chain = None if is_zero_padded else _chain(graph, node)
            if chain is not None:
                found[node.name] = chain
    return found


def _chain(graph: g.BinaryGraph, layer: g.BinaryConv) -> Chain | None:
    between: list[g.Node] = []
    node: g.Node = layer
    while True:
        users = graph.users(node.name)
        if len(users) != 1 or node is graph.nodes[-1]:
            return None
        (node,) = users
        if isinstance(node, g.Sign):
            break
        if not _is_per_channel(graph, node):
            return None
        between.append(node)
    readers = graph.users(node.name)
    if node is graph.nodes[-1] or not readers or not all(_reads_bits(graph, reader) for reader in readers):
        return None
    steps = _thresholds(graph, layer, between)
    if steps is None:
        return None
    flips, thresholds = steps
    pools = tuple(node for node in between if isinstance(node, g.MaxPool))
    negative = layer.negative ^ flips[:, None, None, None]
    return Chain(node.name, tuple(node.name for node in between), pools, negative, thresholds)


def _reads_bits(graph: g.BinaryGraph, node: g.Node) -> bool:
    return isinstance(node, g.BinaryConv) and node.groups == 1 and not any(padding_of(graph, node)[1])


def _is_per_channel(graph: g.BinaryGraph, node: g.Node) -> bool:
    """Whether a node treats channels by themselves, and values one by one or by their maximum."""
    match node:
        case g.Affine() | g.Elementwise() | g.PReLU():
            return True
        case g.MaxPool():
            return pool_padding(graph, node)[0] == SAME or not any(node.padding)
        case g.Reshape():
            shape = graph[node.inputs[0]].shape
            return shape[1:2] == node.shape[1:2] and max(shape[2:] + node.shape[2:], default=1) == 1
    return False


def pool_padding(graph: g.BinaryGraph, node: g.MaxPool) -> tuple[int, g.Sides]:
    """SAME or VALID, and the sides to add."""
    first = (node.padding[0], node.padding[2])
    return place(graph[node.inputs[0]].shape[2:], node.kernel, node.stride, (1, 1), first, node.shape[2:])


def _thresholds(
    graph: g.BinaryGraph, layer: g.BinaryConv, between: list[g.Node]
) -> tuple[NDArray[np.bool_], NDArray[np.int32]] | None:
    """Channels [O] whose weights change their signs, and thresholds [O]; None where bits cannot do it.

    All sums that there can be go through the float operations: what is negative for them is negative here.
    """
    outputs, length = len(layer.negative), layer.negative[0].size
    sums = (length - 2 * np.arange(length + 1)).astype(np.float32)[:, None]
    flips, thresholds = np.zeros(outputs, bool), np.zeros(outputs, np.int32)
    step = max(1, AT_ONCE // (length + 1))
    for start in range(0, outputs, step):
        part = slice(start, start + step)
        scaled = g.Affine(name="", shape=(), scale=layer.scale[part], bias=layer.bias[part])
        values = compute(scaled, [np.broadcast_to(sums, (length + 1, len(layer.scale[part])))])
        pooled = []
        for node in between:
            if isinstance(node, g.MaxPool):
                pooled.append(values)
            elif not isinstance(node, g.Reshape):
                values = compute(_part(node, part), [values])
        bits = values < 0
        if not all(_keeps_order(value, bits) for value in pooled):
            return None
        count = bits.sum(0)
        rises = bits == (np.arange(length + 1)[:, None] > length - count)
        falls = bits == (np.arange(length + 1)[:, None] < count)
        if not (rises.all(0) | falls.all(0)).all():
            return None
        flips[part] = ~rises.all(0)
        thresholds[part] = length - count
    return flips, thresholds


def _part(node: g.Node, channels: slice) -> g.Node:
    constants: dict[str, Any] = {
        name: getattr(node, name)[channels] for name in ("scale", "bias", "slope") if hasattr(node, name)
    }
    return replace(node, **constants)


def _keeps_order(values: g.Floats, bits: NDArray[np.bool_]) -> bool:
    """Whether, in each channel, a maximum of several values has a bit only where all of them have."""
    highest = np.where(bits, values, -np.inf).max(0)
    lowest = np.where(bits, np.inf, values).min(0)
    return bool((highest < lowest).all())
