"""BinaryGraph -> the operators of a .tflite file, one function for each type of node.

Images are [N, H, W, C]. What else moves axes is written only where somebody needs another order: a transpose is a
remark on a value (`emit.Value.order`) until then.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.formats.tflite.convolutions import Binary, conv, transposed_conv
from fsg.export.formats.tflite.emit import IMAGE, Emitter, Value, on_grid, result_grid, same_grid
from fsg.export.formats.tflite.lowered import VALID, Program, Tensor, place
from fsg.export.formats.tflite.packed import Chain
from fsg.export.formats.tflite.values import WRITE
from fsg.export.passes import least_value
from fsg.export.reference import compute


def operators(graph: g.BinaryGraph, batch: int, chains: dict[str, Chain], integer_ends: bool = False) -> Program:
    """The operators for a batch of images; `chains` are the layers whose output stays bits.

    With `integer_ends` the image and the result are int8, on the grids of the first and the last Quantize.
    """
    return _Lowering(graph, batch, chains, integer_ends).program_of_graph()


class _Lowering(Emitter):
    def __init__(self, graph: g.BinaryGraph, batch: int, chains: dict[str, Chain], integer_ends: bool) -> None:
        super().__init__()
        self.graph, self.batch, self.integer_ends = graph, batch, integer_ends
        self.nodes = {node.name: node for node in graph.nodes}
        self.values: dict[str, Value] = {}
        self.binary = Binary(self, graph, chains, self.stored)

    def program_of_graph(self) -> Program:
        first, last = self.graph.nodes[0], self.graph.nodes[-1]
        _, channels, height, width = first.shape
        source = Tensor((self.batch, height, width, channels))
        if self.integer_ends and (grid := result_grid(self.graph.nodes[1])):
            source = on_grid(source, grid)
            self.values[self.graph.nodes[1].name] = Value(source, IMAGE)
        if isinstance(first, g.Pixels):
            source = replace(source, kind=np.dtype(np.uint8), steps=np.ones(1, np.float32))
        self.values[first.name] = Value(source, IMAGE)
        for node in self.graph.nodes[1:]:
            if node.name not in self.values:
                self.add(node)
        value = self.stored(last.name) if self.integer_ends else self.value(last.name)
        result = self.ordered(value, IMAGE if len(value.order) == 4 else tuple(range(len(value.order))))
        if result is source or result.data is not None:
            result = self.like("ADD", result, 0.0)  # an output has to be computed
        chains = self.binary.chains  # what is bits is the sign's, not the layer's
        values = {chains[name].sign if name in chains else name: value for name, value in self.values.items()}
        return self.program(source, result, values)

    def add(self, node: g.Node) -> None:
        if isinstance(node, g.Sign) or node.name in self.binary.skipped:
            return
        if isinstance(node, g.BinaryLayer):
            self.values[node.name] = self.binary.layer(node)
            return
        write = WRITERS.get(type(node))
        if write is None:
            raise TypeError(f"no TensorFlow Lite operator for {type(node).__name__} {node.name}")
        read = self.stored if isinstance(node, AS_STORED) else self.value
        self.values[node.name] = write(self, node, *map(read, node.inputs))

    def value(self, name: str) -> Value:
        """What a node computes, in float32."""
        return self.floats(self.stored(name))

    def stored(self, name: str) -> Value:
        """What a node computes, of int8 where it is; of a sign the floats, which are written only where somebody reads
        them."""
        if name not in self.values:
            self.values[name] = self.binary.floats(name)
        return self.values[name]


def _per_channel(to: _Lowering, values: np.ndarray, x: Value) -> Tensor:
    """Values [C] to be broadcast over a value whose channels are axis 1 in PyTorch's order."""
    behind = len(x.order) - 1 - x.order.index(1)
    return to.constant(values.reshape(-1, *[1] * behind))


def _affine(to: _Lowering, node: g.Affine, x: Value) -> Value:
    tensor = x.tensor
    if not node.scale.any():  # what no image changes
        bias = _per_channel(to, node.bias, x).data
        assert bias is not None
        return Value(to.constant(np.broadcast_to(bias, tensor.shape)), x.order)
    for code, values, nothing in (("MUL", node.scale, 1), ("ADD", node.bias, 0)):
        if (values != nothing).any():
            tensor = to.like(code, tensor, _per_channel(to, values, x))
    return Value(tensor, x.order)


def _prelu(to: _Lowering, node: g.PReLU, x: Value) -> Value:
    if len(x.order) == 4:
        x = Value(to.ordered(x, IMAGE), IMAGE)
    slope = _per_channel(to, node.slope, x)
    slope = to.reshape(slope, (*[1] * (len(x.order) - 1 - len(slope.shape)), *slope.shape))
    return Value(to.like("PRELU", x.tensor, slope), x.order)


def _dense(to: _Lowering, node: g.Dense | g.Int8Dense, x: Value) -> Value:
    source, weight = to.nodes[node.inputs[0]], node.weight
    rank = len(x.order)
    if isinstance(source, g.Reshape) and rank == 2:
        read = to.stored if isinstance(node, g.Int8Dense) else to.value
        before = read(source.inputs[0])
        if len(before.order) == 4 and before.order == IMAGE:  # flattened in the order that it has, as is the weight
            _, height, width, channels = before.tensor.shape
            x = Value(to.reshape(before.tensor, (to.batch, height * width * channels)), (0, 1))
            weight = weight.reshape(len(weight), channels, height * width).transpose(0, 2, 1).reshape(len(weight), -1)
    order = (*(axis for axis in x.order if axis != rank - 1), rank - 1)
    tensor = to.ordered(x, order)
    output = to.emit(
        "FULLY_CONNECTED",
        [tensor, *to.parameters(node, weight, (0, 1))],
        (*tensor.shape[:-1], len(weight)),
        grid=result_grid(node),
        keepNumDims=rank > 2,
    )
    return Value(output, order)


ARITHMETIC = {"add": "ADD", "sub": "SUB", "mul": "MUL", "div": "DIV", "max": "MAXIMUM", "min": "MINIMUM"}


def _arithmetic(to: _Lowering, node: g.Arithmetic, x: Value, y: Value) -> Value:
    """In the order of the operand that is no constant, and of two of the larger."""
    rank = len(node.shape)

    def size(value: Value) -> tuple[bool, int, int]:
        return value.tensor.data is None, len(value.order), int(np.prod(value.tensor.shape))

    order = max(x, y, key=size).order
    if len(order) != rank:
        order = tuple(range(rank))

    def operand(value: Value) -> Tensor:
        missing = rank - len(value.order)
        if missing:
            tensor = to.ordered(value, tuple(range(rank - missing)))
            value = Value(to.reshape(tensor, (*[1] * missing, *tensor.shape)), tuple(range(rank)))
        return to.ordered(value, order)

    left, right = operand(x), operand(y)
    shape = np.broadcast_shapes(left.shape, right.shape)
    if left.data is not None and right.data is not None:
        return Value(to.constant(compute(node, [left.data, right.data])), order)
    operands: list[Tensor | None] = [_trimmed(to, operand) for operand in (left, right)]
    return Value(to.emit(ARITHMETIC[node.operator], operands, shape), order)


def _trimmed(to: _Lowering, x: Tensor) -> Tensor:
    """A constant without the leading axes of length 1, which broadcasting adds again."""
    if x.data is None:
        return x
    first = next((i for i, n in enumerate(x.shape) if n > 1), len(x.shape))
    return to.reshape(x, x.shape[first:])


def _concat(to: _Lowering, node: g.Concat, *inputs: Value) -> Value:
    order = max(inputs, key=lambda value: (value.tensor.data is None, value.order == IMAGE)).order
    tensors = []
    for value in inputs:
        tensor = to.ordered(value, order)
        if tensor.data is not None and tensor.shape[order.index(0)] < to.batch:
            tensor = to.constant(np.repeat(tensor.data, to.batch, order.index(0)))
        tensors.append(tensor)
    at = order.index(node.axis % len(order))
    shape = list(tensors[0].shape)
    shape[at] = sum(tensor.shape[at] for tensor in tensors)
    return Value(to.emit("CONCATENATION", [*tensors], tuple(shape), axis=at), order)


def _take(to: _Lowering, node: g.Take, x: Value) -> Value:
    at, index = x.order.index(node.axis % len(x.order)), np.array(node.index)
    shape, rank = list(x.tensor.shape), len(x.order)
    steps = set(np.diff(index).tolist()) or {1}
    length, shape[at] = shape[at], len(index)
    if len(index) == length and steps == {1}:
        return x
    if steps == {1}:
        begin = [0] * rank
        begin[at] = int(index[0])
        return Value(to.emit("SLICE", [x.tensor, to.integers(*begin), to.integers(*shape)], tuple(shape)), x.order)
    if len(steps) == 1 and min(steps) > 0:
        begin, end, strides = [0] * rank, list(x.tensor.shape), [1] * rank
        begin[at], end[at], strides[at] = int(index[0]), int(index[-1]) + 1, int(min(steps))
        ends = [to.integers(*values) for values in (begin, end, strides)]
        return Value(to.emit("STRIDED_SLICE", [x.tensor, *ends], tuple(shape)), x.order)
    rows = int(index[1])
    if (
        len(index) == length
        and rows > 1
        and length % rows == 0
        and (index == np.arange(length).reshape(-1, rows).T.reshape(-1)).all()
    ):
        before, behind = int(np.prod(shape[:at])), int(np.prod(shape[at + 1 :]))
        turned = to.transpose(to.reshape(x.tensor, (before, length // rows, rows, behind)), (0, 2, 1, 3))
        return Value(to.reshape(turned, tuple(shape)), x.order)  # the shuffle of channels of groups
    places = to.integers(*node.index)
    return Value(to.emit("GATHER", [x.tensor, places], tuple(shape), axis=at), x.order)


def _pad(to: _Lowering, node: g.Pad, x: Value) -> Value:
    top, bottom, left, right = node.padding
    both = [(0, 0), node.channels, (top, bottom), (left, right)]
    before, after = ([both[axis][end] for axis in x.order] for end in range(2))
    return Value(to.pad(x.tensor, before, after, node.value), x.order)


def _pool(to: _Lowering, node: g.Pool, x: Value) -> Value:
    image = to.ordered(x, IMAGE)
    first = (node.padding[0], node.padding[2])
    padding, sides = place(image.shape[1:3], node.kernel, node.stride, (1, 1), first, node.shape[2:])
    outside = least_value(to.graph, node) if isinstance(node, g.MaxPool) else 0.0
    if isinstance(node, g.AveragePool) or padding == VALID:  # SAME would not count zeros
        padding, image = VALID, to.pad_image(image, sides, outside)
    output = to.emit(
        "MAX_POOL_2D" if isinstance(node, g.MaxPool) else "AVERAGE_POOL_2D",
        [image],
        (image.shape[0], *node.shape[2:], image.shape[3]),
        padding=padding,
        strideH=node.stride[0],
        strideW=node.stride[1],
        filterHeight=node.kernel[0],
        filterWidth=node.kernel[1],
        grid=same_grid(image),
    )
    return Value(output, IMAGE)


def _reduce(to: _Lowering, node: g.Reduce, x: Value) -> Value:
    keep = len(node.shape) == len(x.order)
    axes = [axis % len(x.order) for axis in node.axes]
    at = sorted(x.order.index(axis) for axis in axes)
    shape = [1 if i in at else n for i, n in enumerate(x.tensor.shape)]
    order = x.order
    if not keep:
        shape = [n for i, n in enumerate(shape) if i not in at]
        left = [axis for axis in range(len(x.order)) if axis not in axes]
        order = tuple(left.index(axis) for axis in x.order if axis in left)
    code = {"mean": "MEAN", "sum": "SUM", "max": "REDUCE_MAX"}[node.operator]
    return Value(to.emit(code, [x.tensor, to.integers(*at)], tuple(shape), keepDims=keep), order)


def _matmul(to: _Lowering, node: g.MatMul, x: Value, y: Value) -> Value:
    order = tuple(range(len(node.shape)))
    left, right = (to.ordered(value, order) for value in (x, y))
    shape = (*left.shape[:-1], right.shape[-1])
    return Value(to.emit("BATCH_MATMUL", [left, right], shape, adjX=False, adjY=False), order)


def _softmax(to: _Lowering, node: g.Softmax, x: Value) -> Value:
    axis = node.axis % len(x.order)
    order = x.order
    if order[-1] != axis:
        order = (*(other for other in order if other != axis), axis)
    tensor = to.ordered(x, order)
    options: dict[str, Any] = {} if node.log else {"beta": 1.0}
    return Value(to.like("LOG_SOFTMAX" if node.log else "SOFTMAX", tensor, **options), order)


def _resize(to: _Lowering, node: g.Resize, x: Value) -> Value:
    image = to.ordered(x, IMAGE)
    size = node.shape[2:]
    shape = (image.shape[0], *size, image.shape[3])
    if image.shape == shape:
        return x
    if node.mode == "nearest":
        for axis, new in zip((1, 2), size, strict=True):
            old = image.shape[axis]
            if not np.array_equal(
                np.minimum(np.floor(np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))), old - 1),
                np.arange(new) * old // new,
            ):  # TFLite multiplies by a rounded ratio
                return _gathered(to, image, size)
        return Value(to.emit("RESIZE_NEAREST_NEIGHBOR", [image, to.integers(*size)], shape), IMAGE)
    options: dict[str, Any] = {"alignCorners": node.align_corners, "halfPixelCenters": not node.align_corners}
    return Value(to.emit("RESIZE_BILINEAR", [image, to.integers(*size)], shape, **options), IMAGE)


def _gathered(to: _Lowering, image: Tensor, size: tuple[int, ...]) -> Value:
    for axis, new in zip((1, 2), size, strict=True):
        places = to.integers(*(int(i) * image.shape[axis] // new for i in range(new)))
        shape = (*image.shape[:axis], new, *image.shape[axis + 1 :])
        image = to.emit("GATHER", [image, places], shape, axis=axis)
    return Value(image, IMAGE)


def _transpose(to: _Lowering, node: g.Transpose, x: Value) -> Value:
    return Value(x.tensor, tuple(node.permutation.index(axis) for axis in x.order))


def _reshape(to: _Lowering, node: g.Reshape, x: Value) -> Value:
    """In the order that the value has, where each axis of the result is of neighbours in it; else in PyTorch's."""
    groups = _groups(x.shape, (to.batch, *node.shape[1:]))
    before = sorted(groups, key=lambda group: min((x.order.index(axis) for axis in group[0]), default=-1))
    order = tuple(axis for old, _ in before for axis in old)
    if order != x.order:
        before, order = groups, tuple(range(len(x.order)))
    tensor = to.ordered(x, order)
    new = tuple(axis for _, axes in before for axis in axes)
    shape = (to.batch, *node.shape[1:])
    return Value(to.reshape(tensor, tuple(shape[axis] for axis in new)), new)


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Axes of two shapes that hold the same values, in order: the smallest such groups."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(left), j + len(right)
        if not left or not right:  # axes of length 1 at the end
            groups[-1][0].extend(left)
            groups[-1][1].extend(right)
            continue
        a, b = old[left[0]], new[right[0]]
        while a != b:
            if a < b:
                left.append(i)
                a *= old[i]
                i += 1
            else:
                right.append(j)
                b *= new[j]
                j += 1
        groups.append((left, right))
    return groups


def _quantize(to: _Lowering, node: g.Quantize, x: Value) -> Value:
    return Value(to.emit("QUANTIZE", [x.tensor], x.tensor.shape, grid=result_grid(node)), x.order)


AS_STORED = (g.Int8Conv, g.Int8Dense, g.MaxPool, g.Transpose, g.Reshape)
"""Nodes that are written for int8 and for float32 alike."""

WRITERS: dict[type[g.Node], Callable[..., Value]] = {
    g.Constant: lambda to, node: Value(to.constant(node.value), tuple(range(node.value.ndim))),
    g.Negative: lambda to, node, x: Value(to.like("RELU6", to.like("MUL", x.tensor, -node.gain)), x.order),
    g.Conv: conv,
    g.TransposedConv: transposed_conv,
    g.Dense: _dense,
    g.Int8Conv: conv,
    g.Int8Dense: _dense,
    g.Quantize: _quantize,
    g.Affine: _affine,
    g.Elementwise: lambda to, node, x: Value(WRITE[node.operator](to, x.tensor, node.settings), x.order),
    g.PReLU: _prelu,
    g.Arithmetic: _arithmetic,
    g.Concat: _concat,
    g.Take: _take,
    g.Pad: _pad,
    g.MaxPool: _pool,
    g.AveragePool: _pool,
    g.Reduce: _reduce,
    g.MatMul: _matmul,
    g.Softmax: _softmax,
    g.Resize: _resize,
    g.Transpose: _transpose,
    g.Reshape: _reshape,
}
"""Binary layers and signs are in `convolutions.Binary`."""
