"""Finds what is binary in networks that do not say so: layers of plain PyTorch with weights of +c and -c, and the many
ways to write a sign. Each rewrite keeps what the graph computes."""

from dataclasses import replace
from typing import Any

import numpy as np

from fsg.export.elementwise import OPERATORS
from fsg.export.graph import (
    Affine,
    Arithmetic,
    AveragePool,
    BinaryConv,
    BinaryDense,
    BinaryGraph,
    Concat,
    Conv,
    Dense,
    Elementwise,
    MaxPool,
    Node,
    Pad,
    PReLU,
    Quantize,
    Reduce,
    Reshape,
    Sign,
    Take,
    Transpose,
    one_bit,
    rewrite,
)
from fsg.export.passes import fold_affine, remove_unused, shuffles_as_take, sign_last


def simplify(graph: BinaryGraph) -> BinaryGraph:
    """The rewrites that every format wants."""
    graph = zeros_into_convolutions(without_expansion(graph))
    graph = scale_behind_sign(without_identity(fold_affine(signs(shuffles_as_take(graph)))))
    return binary_layers(sign_last(without_identity(fold_affine(graph))))


def signs(graph: BinaryGraph) -> BinaryGraph:
    """torch.sign, which gives 0 for 0, becomes a sign of one bit, unless 0 is what many of its inputs are."""

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, Elementwise) or node.operator != "Sign" or _often_zero(graph, graph[node.inputs[0]]):
            return [node]
        return [Sign(name=node.name, inputs=node.inputs, shape=node.shape)]

    return rewrite(graph, rule)


def _often_zero(graph: BinaryGraph, node: Node) -> bool:
    """Whether a value is exactly 0 in more than a rare case, as behind a ReLU."""
    if isinstance(node, Elementwise):
        lowest = OPERATORS[node.operator].lowest
        clipped = node.operator == "Hardtanh" and 0 in (node.settings["min_val"], node.settings["max_val"])
        if lowest == 0 or clipped or node.operator == "Sign":
            return node.operator not in ("Sigmoid", "Exp")
    elif isinstance(node, Quantize) or (isinstance(node, Pad) and node.value == 0):
        return True
    elif not isinstance(node, (MaxPool, AveragePool, Reduce, Reshape, Take, Transpose, Concat, Pad, PReLU)):
        return False
    return any(_often_zero(graph, graph[name]) for name in node.inputs)


def without_identity(graph: BinaryGraph) -> BinaryGraph:
    """Removes factors of 1 with summands of 0."""

    def rule(node: Node) -> list[Node]:
        same = isinstance(node, Affine) and bool((node.scale == 1).all() and (node.bias == 0).all())
        return [] if same and node is not graph.nodes[-1] else [node]

    return rewrite(graph, rule)


def without_expansion(graph: BinaryGraph) -> BinaryGraph:
    """Arithmetic on what was repeated along axes of length 1 takes it as it was before: it is broadcast anyway."""

    def before(name: str) -> str:
        node = graph[name]
        while isinstance(node, Take) and set(node.index) == {0} and graph[node.inputs[0]].shape[node.axis] == 1:
            node = graph[node.inputs[0]]
        return node.name

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, Arithmetic):
            return [node]
        inputs = tuple(map(before, node.inputs))
        shapes = [graph[name].shape for name in inputs]
        return [replace(node, inputs=inputs) if np.broadcast_shapes(*shapes) == node.shape else node]

    return remove_unused(rewrite(graph, rule))


def zeros_into_convolutions(graph: BinaryGraph) -> BinaryGraph:
    """Convolutions of what was padded with as many zeros on both sides pad it themselves: of signs they can be binary,
    which with zeros among them are none."""

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, (Conv, BinaryConv)):
            return [node]
        pad = graph[node.inputs[0]]
        if not isinstance(pad, Pad) or pad.value != 0 or any(pad.channels) or pad.padding[::2] != pad.padding[1::2]:
            return [node]
        padding = (node.padding[0] + pad.padding[0], node.padding[1] + pad.padding[2])
        if isinstance(node, Conv):
            return [replace(node, inputs=pad.inputs, padding=padding)]
        if node.padding_value != 0 and any(node.padding):
            return [node]
        return [replace(node, inputs=pad.inputs, padding=padding, padding_value=0.0)]

    return remove_unused(rewrite(graph, rule))


def scale_behind_sign(graph: BinaryGraph) -> BinaryGraph:
    """A factor of all signs alike goes into the layers that read them, which then read bits."""
    moved: dict[str, np.float32] = {}
    for node in graph.nodes:
        if not isinstance(node, Affine) or not isinstance(graph[node.inputs[0]], Sign):
            continue
        alike = (node.scale == node.scale[0]).all() and (node.bias == 0).all() and node.scale[0] != 0
        readers = graph.users(node.name)
        if alike and readers and all(_takes_a_factor(reader) for reader in readers):
            moved[node.name] = node.scale[0]

    def rule(node: Node) -> list[Node]:
        if node.name in moved:
            return []
        factor = moved.get(graph[node.name].inputs[0]) if graph[node.name].inputs else None
        if factor is None:
            return [node]
        if isinstance(node, (Conv, Dense)):
            return [replace(node, weight=node.weight * factor)]
        assert isinstance(node, (BinaryConv, BinaryDense))
        if factor < 0:
            node = replace(node, negative=~node.negative)
        return [replace(node, scale=node.scale * abs(factor))]

    return rewrite(graph, rule)


def _takes_a_factor(node: Node) -> bool:
    """Whether a factor of a node's input may be one of its weights instead."""
    if isinstance(node, BinaryConv):
        return node.padding_value == 0 or node.padding == (0, 0)
    return isinstance(node, (Conv, Dense, BinaryDense))


def binary_layers(graph: BinaryGraph) -> BinaryGraph:
    """Layers on signs whose weights are +c or -c in every output channel are binary ones."""

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, (Conv, Dense)) or not graph.takes_bits(node):
            return [node]
        bits = one_bit(node.weight)
        if bits is None:
            return [node]
        base: dict[str, Any] = {"name": node.name, "inputs": node.inputs, "shape": node.shape, "bias": node.bias}
        base |= {"negative": bits[0], "scale": bits[1]}
        if isinstance(node, Dense):
            return [BinaryDense(**base)]
        window = {name: getattr(node, name) for name in ("stride", "padding", "dilation", "groups")}
        return [BinaryConv(**base, **window, padding_value=0.0)]

    return remove_unused(rewrite(graph, rule))
