"""Rewrites of a BinaryGraph. Each keeps what the graph computes; docstrings say why it is worth doing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.export.elementwise import OPERATORS
from fsg.export.graph import (
    Affine,
    BinaryConv,
    BinaryDense,
    BinaryGraph,
    BinaryLayer,
    Concat,
    Conv,
    Convolution,
    Dense,
    Elementwise,
    Input,
    MaxPool,
    Negative,
    Node,
    Pad,
    Pixels,
    Pool,
    Reshape,
    Sign,
    Take,
    Transpose,
    rewrite,
    sides,
)


def on_pixels(graph: BinaryGraph, mean: Sequence[float], std: Sequence[float]) -> BinaryGraph:
    """Takes raw pixels from 0 to 255, and normalises them as `normalize` does."""
    first, *others = graph.nodes
    shift, scale = (np.asarray(values, np.float64) for values in (mean, std))
    image = Pixels(name=f"{first.name}.pixels", inputs=(), shape=first.shape)
    normalised = Affine(
        name=first.name,
        inputs=(image.name,),
        shape=first.shape,
        scale=(1 / (255 * scale)).astype(np.float32),
        bias=(-shift / scale).astype(np.float32),
    )
    return BinaryGraph((image, normalised, *others))


def fold_affine(graph: BinaryGraph) -> BinaryGraph:
    """Moves batch normalisation into the layer before it, where nothing else reads that layer's output."""
    layers, dense = (Conv, Dense, BinaryLayer, Affine), (Dense, BinaryDense)
    folded: dict[str, Affine] = {}
    removed: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, Affine):
            source = graph[node.inputs[0]]
            known = isinstance(source, layers) and not (isinstance(source, dense) and len(source.shape) > 2)
            # Behind one that is removed it has to wait for the next round.
            if known and source.name not in removed and len(graph.users(source.name)) == 1:
                folded[source.name] = node
                removed.add(node.name)
    if not folded:
        return graph

    def rule(node: Node) -> list[Node]:
        if node.name in removed:
            return []
        if node.name not in folded:
            return [node]
        affine = folded[node.name]
        if isinstance(node, (Conv, Dense)):
            scale = affine.scale.reshape(-1, *[1] * (node.weight.ndim - 1))
            bias = node.bias * affine.scale + affine.bias
            return [replace(node, weight=node.weight * scale, bias=bias)]
        assert isinstance(node, (BinaryLayer, Affine))
        return [replace(node, scale=node.scale * affine.scale, bias=node.bias * affine.scale + affine.bias)]

    return fold_affine(rewrite(graph, rule))


def sign_last(graph: BinaryGraph) -> BinaryGraph:
    """Moves signs behind max pools, padding with +1 or -1, reshapes and concatenations of signs alone: they then stand
    at the binary layer, which can then read packed bits."""
    unsigned: dict[str, str] = {}

    def moves(node: Node) -> bool:
        is_sign = isinstance(node, Pad) and abs(node.value) == 1
        return is_sign or isinstance(node, (MaxPool, Reshape, Concat, Take, Transpose))

    def rule(node: Node) -> list[Node]:
        if isinstance(node, Sign):
            unsigned[node.name] = node.inputs[0]
        elif moves(node) and all(name in unsigned for name in node.inputs):
            moved = replace(node, name=f"{node.name}.float", inputs=tuple(unsigned[name] for name in node.inputs))
            unsigned[node.name] = moved.name
            return [moved, Sign(name=node.name, inputs=(moved.name,), shape=node.shape)]
        return [node]

    return remove_unused(rewrite(graph, rule))


def shuffles_as_take(graph: BinaryGraph) -> BinaryGraph:
    """Writes chains of reshapes and transposes that do nothing but reorder one axis, such as channel shuffles, as that:
    whoever knows the axis need not move the image."""
    nodes = {node.name: node for node in graph.nodes}

    def rule(node: Node) -> list[Node]:
        chain: list[Node] = []
        source = nodes[node.name]
        while isinstance(source, (Reshape, Transpose)) and (not chain or len(graph.users(source.name)) == 1):
            chain.append(source)
            source = nodes[source.inputs[0]]
            moves = any(isinstance(step, Transpose) for step in chain)
            if moves and len(chain) > 1 and source.shape == node.shape:
                return [_as_take(node, source, chain) or node]
        return [node]

    return remove_unused(rewrite(graph, rule))


def _as_take(node: Node, source: Node, chain: list[Node]) -> Node | None:
    """What a chain of reshapes and transposes, the last first, does to one axis; None where it does more."""
    before = np.arange(int(np.prod(source.shape))).reshape(source.shape)
    after = before
    for step in reversed(chain):
        after = after.transpose(step.permutation) if isinstance(step, Transpose) else after.reshape(step.shape)
    if (after == before).all():
        return Reshape(name=node.name, inputs=(source.name,), shape=node.shape)
    for axis, length in enumerate(source.shape):
        behind = int(np.prod(source.shape[axis + 1 :]))
        index = np.moveaxis(after, axis, 0).reshape(length, -1)[:, 0] // behind % length
        if (after == before.take(index, axis)).all():
            return Take(name=node.name, inputs=(source.name,), shape=node.shape, axis=axis, index=tuple(index.tolist()))
    return None


def dense_as_convolution(graph: BinaryGraph) -> BinaryGraph:
    """Writes binary dense layers on signs as 1x1 convolutions, with the reshape before the sign.

    Larq Compute Engine has no binary matrix product and turns one of signs into a float one.
    """

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, BinaryDense) or not graph.takes_bits(node) or len(node.shape) != 2:
            return [node]
        image = Reshape(
            name=f"{node.name}.image",
            inputs=graph[node.inputs[0]].inputs,
            shape=(1, node.negative.shape[1], 1, 1),
        )
        sign = Sign(name=f"{node.name}.sign", inputs=(image.name,), shape=image.shape)
        return [image, sign, *_as_convolution(node, sign.name, (1, 1))]

    return remove_unused(rewrite(graph, rule))


def dense_behind_image(graph: BinaryGraph) -> BinaryGraph:
    """Writes binary dense layers on a flattened image's signs as convolutions of the image, as large as it: nothing has
    to be moved for them."""

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, BinaryDense) or not graph.takes_bits(node) or len(node.shape) != 2:
            return [node]
        flat = graph[graph[node.inputs[0]].inputs[0]]
        image = graph[flat.inputs[0]] if isinstance(flat, Reshape) else flat
        if len(flat.shape) != 2 or len(image.shape) != 4:
            return [node]
        sign = Sign(name=f"{node.name}.sign", inputs=(image.name,), shape=image.shape)
        return [sign, *_as_convolution(node, sign.name, image.shape[2:])]

    return remove_unused(rewrite(graph, rule))


def _as_convolution(node: BinaryDense, source: str, size: tuple[int, ...]) -> list[Node]:
    """A dense layer of an image of `size` (rows, columns), and the reshape of what it gives."""
    outputs = len(node.negative)
    conv = BinaryConv(
        name=f"{node.name}.conv",
        inputs=(source,),
        shape=(1, outputs, 1, 1),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        negative=node.negative.reshape(outputs, -1, *size),
        scale=node.scale,
        bias=node.bias,
        padding_value=1.0,
    )
    return [conv, Reshape(name=node.name, inputs=(conv.name,), shape=node.shape)]


def split_groups(graph: BinaryGraph) -> BinaryGraph:
    """Writes binary convolutions in groups as one for each group, and those with one channel in each as float ones.

    LCE has no groups, and nothing to gain from a single channel.
    """

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, BinaryConv) or node.groups == 1 or not graph.takes_bits(node):
            return [node]
        outputs, channels = node.negative.shape[:2]
        if channels == 1:
            return _as_float(graph, node)
        sign = graph[node.inputs[0]]
        nodes: list[Node] = []
        for i in range(node.groups):
            part = slice(outputs // node.groups * i, outputs // node.groups * (i + 1))
            name, index = f"{node.name}.{i}", tuple(range(channels * i, channels * (i + 1)))
            shape = (1, channels, *sign.shape[2:])
            nodes += [
                Take(name=f"{name}.float", inputs=sign.inputs, shape=shape, axis=1, index=index),
                Sign(name=f"{name}.sign", inputs=(f"{name}.float",), shape=shape),
                replace(
                    node,
                    name=name,
                    inputs=(f"{name}.sign",),
                    shape=(1, outputs // node.groups, *node.shape[2:]),
                    groups=1,
                    negative=node.negative[part],
                    scale=node.scale[part],
                    bias=node.bias[part],
                ),
            ]
        parts = tuple(f"{node.name}.{i}" for i in range(node.groups))
        return [*nodes, Concat(name=node.name, inputs=parts, shape=node.shape)]

    return remove_unused(rewrite(graph, rule))


def float_where_input_is_float(graph: BinaryGraph) -> BinaryGraph:
    """Writes binary layers whose input is no sign (32-bit activations) as float ones: LCE has no kernel for them."""

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, BinaryLayer) or graph.takes_bits(node):
            return [node]
        return _as_float(graph, node)

    return rewrite(graph, rule)


def _as_float(graph: BinaryGraph, node: BinaryLayer) -> list[Node]:
    """A layer with its weights as floats."""
    weight = node.signs() * node.scale.reshape(-1, *[1] * (node.negative.ndim - 1))
    base: dict[str, Any] = {"name": node.name, "shape": node.shape, "weight": weight, "bias": node.bias}
    if not isinstance(node, BinaryConv):
        return [Dense(inputs=node.inputs, **base)]
    base |= {"stride": node.stride, "dilation": node.dilation, "groups": node.groups}
    if node.padding_value == 0 or node.padding == (0, 0):
        return [Conv(inputs=node.inputs, padding=node.padding, **base)]
    pad = _pad(graph, node, node.inputs[0], node.padding_value)
    return [pad, Conv(inputs=(pad.name,), padding=(0, 0), **base)]


def bits_as_floats(graph: BinaryGraph, gain: float) -> BinaryGraph:
    """Writes binary layers that run on bits as float ones of the same result: a network without any bitwise operation.

    With n = 6 for a negative input and 0 for the others, sign = 1 - n / 3: the sum over weight * sign is the sum over
    the weights less the sum over weight / 3 * n. Padding with +1 becomes padding with 0, which every runtime does for
    free.
    """

    def name(sign: str) -> str:
        return f"{sign}.negative"

    def rule(node: Node) -> list[Node]:
        if isinstance(node, Sign):
            negative = Negative(name=name(node.name), inputs=node.inputs, shape=node.shape, gain=gain)
            return [negative, node]
        if not isinstance(node, BinaryLayer) or not graph.takes_bits(node):
            return [node]
        signs = node.signs()
        scale = node.scale.reshape(-1, *[1] * (signs.ndim - 1))
        bias = node.bias + node.scale * signs.reshape(len(signs), -1).sum(1)
        source = name(node.inputs[0])
        base: dict[str, Any] = {"name": node.name, "shape": node.shape, "weight": signs * scale / -3, "bias": bias}
        if not isinstance(node, BinaryConv):
            return [Dense(inputs=(source,), **base)]
        base |= {"stride": node.stride, "dilation": node.dilation, "groups": node.groups}
        if node.padding_value == 1 or node.padding == (0, 0):
            return [Conv(inputs=(source,), padding=node.padding, **base)]
        pad = _pad(graph, node, source, 3 * (1 - node.padding_value))
        return [pad, Conv(inputs=(pad.name,), padding=(0, 0), **base)]

    return remove_unused(rewrite(graph, rule))


def pad_before_convolution(graph: BinaryGraph) -> BinaryGraph:
    """Pads float convolutions by a node of its own where TensorFlow's SAME padding would not be symmetric.

    For TensorFlow Lite's own converter, which leaves it at that; LCE's does not.
    """

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, Conv) or node.padding == (0, 0) or is_same(node, graph[node.inputs[0]].shape[2:]):
            return [node]
        pad = _pad(graph, node, node.inputs[0], 0.0)
        return [pad, replace(node, inputs=(pad.name,), padding=(0, 0))]

    return rewrite(graph, rule)


def pad_before_sign(graph: BinaryGraph) -> BinaryGraph:
    """Pads with +1 or -1 before the sign instead of after it, unless LCE knows the padding behind the sign.

    LCE's converter reads symmetric padding behind the sign as TensorFlow's SAME padding, which at stride 2 is not
    symmetric: the wrong result, without a word. Before the sign it stays what it is, since sign(+1) is +1.
    """

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, BinaryConv) or not graph.takes_bits(node):
            return [node]
        if node.padding == (0, 0) or keeps_size(node):
            return [node]
        if abs(node.padding_value) != 1:
            remedy = "has to keep the image's size" if node.padding_value == 0 else "leaves one bit"
            raise FsgError(
                f"cannot export {node.name} to TensorFlow Lite or C: padding a binary convolution with"
                f" {node.padding_value:g} {remedy}; train it with padding_value=1"
            )
        pad = _pad(graph, node, graph[node.inputs[0]].inputs[0], node.padding_value)
        sign = Sign(name=f"{node.name}.sign", inputs=(pad.name,), shape=pad.shape)
        return [pad, sign, replace(node, inputs=(sign.name,), padding=(0, 0))]

    return remove_unused(rewrite(graph, rule))


def zero_padding_at_every_pixel(graph: BinaryGraph) -> BinaryGraph:
    """Binary convolutions of zero-padded signs compute every pixel, of which those that are wanted are taken.

    A bit cannot be 0, so only what LCE knows as SAME padding at stride 1 can be padded with it: about as many rows on
    both sides as keep the image's size. More is refused later.
    """

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, BinaryConv) or not graph.takes_bits(node):
            return [node]
        if node.padding_value != 0 or node.padding == (0, 0) or keeps_size(node):
            return [node]
        reach = [d * (k - 1) for d, k in zip(node.dilation, node.negative.shape[2:], strict=True)]
        if any(size % 2 or padding > size // 2 for size, padding in zip(reach, node.padding, strict=True)):
            return [node]
        size = graph[node.inputs[0]].shape[2:]
        same = (reach[0] // 2, reach[1] // 2)
        shape = (1, len(node.negative), *size)
        result: list[Node] = [replace(node, name=f"{node.name}.all", stride=(1, 1), padding=same, shape=shape)]
        for axis in range(2):
            first = same[axis] - node.padding[axis]
            index = tuple(first + node.stride[axis] * i for i in range(node.shape[2 + axis]))
            shape = (*shape[: 2 + axis], len(index), *shape[3 + axis :])
            name = node.name if axis else f"{node.name}.rows"
            result.append(Take(name=name, inputs=(result[-1].name,), shape=shape, axis=2 + axis, index=index))
        return result

    return rewrite(graph, rule)


def pad_before_pool(graph: BinaryGraph) -> BinaryGraph:
    """Pads pools by a node of its own, since TensorFlow's SAME padding is not symmetric where a stride leaves a rest.

    The maximum is padded with the least value that there can be, 0 behind a ReLU, else with the lowest number, whose
    sign is -1.
    """

    def rule(node: Node) -> list[Node]:
        if not isinstance(node, Pool) or not any(node.padding):
            return [node]
        value = least_value(graph, node) if isinstance(node, MaxPool) else 0.0
        pad = _pad(graph, node, node.inputs[0], value)
        return [pad, replace(node, inputs=(pad.name,), padding=(0, 0, 0, 0))]

    return rewrite(graph, rule)


def least_value(graph: BinaryGraph, node: MaxPool) -> float:
    """What a pool's input cannot be less than: padding with it changes no maximum."""
    source = graph[node.inputs[0]]
    known = OPERATORS[source.operator].lowest if isinstance(source, Elementwise) else None
    return float(np.finfo(np.float32).min) if known is None else known


def is_same(node: Conv, sizes: tuple[int, ...]) -> bool:
    """Whether TensorFlow's SAME padding of an image of `sizes` (rows, columns) is the node's own."""

    def same(axis: int) -> bool:
        stride, outputs = node.stride[axis], node.shape[2 + axis]
        reach = node.dilation[axis] * (node.weight.shape[2 + axis] - 1) + 1
        total = max((outputs - 1) * stride + reach - sizes[axis], 0)
        return total == 2 * node.padding[axis] and outputs == -(-sizes[axis] // stride)

    return all(map(same, range(2)))


def keeps_size(node: BinaryConv) -> bool:
    """Whether the padding is symmetric SAME padding at stride 1, with a value that LCE knows."""
    reach = (node.dilation[axis] * (node.negative.shape[2 + axis] - 1) for axis in range(2))
    same = all(2 * padding == total for padding, total in zip(node.padding, reach, strict=True))
    return same and node.stride == (1, 1) and node.padding_value in (0, 1)


def remove_unused(graph: BinaryGraph) -> BinaryGraph:
    """Drops nodes whose output nothing reads."""
    used = {graph.nodes[-1].name}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in used or isinstance(node, Input):
            kept.append(node)
            used.update(node.inputs)
    return BinaryGraph(tuple(reversed(kept)))


def _pad(graph: BinaryGraph, node: Convolution | Pool, source: str, value: float) -> Pad:
    batch, channels, height, width = graph[node.inputs[0]].shape
    top, bottom, left, right = sides(node)
    return Pad(
        name=f"{node.name}.pad",
        inputs=(source,),
        shape=(batch, channels, height + top + bottom, width + left + right),
        padding=(top, bottom, left, right),
        value=value,
    )
