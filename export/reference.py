"""What a BinaryGraph means, in plain NumPy: the reference for passes and writers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.elementwise import ARITHMETIC, OPERATORS


def run_graph(graph: g.BinaryGraph, images: g.Floats) -> dict[str, g.Floats]:
    """Every node's value, by name, for normalised images [N, C, H, W]."""
    values = {graph.nodes[0].name: images}
    for node in graph.nodes[1:]:
        values[node.name] = compute(node, [values[name] for name in node.inputs])
    return values


def compute(node: g.Node, inputs: list[g.Floats]) -> g.Floats:
    """The value of a node, float32, from those of its inputs."""
    return np.asarray(MEANINGS[type(node)](node, *inputs), np.float32)


def _conv(node: g.Conv, x: g.Floats) -> g.Floats:
    return convolve(padded(x, g.sides(node), 0.0), node.weight, node) + per_channel(node.bias, x)


def _binary_conv(node: g.BinaryConv, x: g.Floats) -> g.Floats:
    sums = convolve(padded(x, g.sides(node), node.padding_value), node.signs(), node)
    return sums * per_channel(node.scale, x) + per_channel(node.bias, x)


def convolve(x: g.Floats, weight: g.Floats, node: g.Convolution) -> g.Floats:
    """The sums of a convolution of x [N, C, H, W] as it is, without padding: one matrix product for each tap."""
    (outputs, channels, *kernel), groups = weight.shape, node.groups
    reach = [dilation * (size - 1) for dilation, size in zip(node.dilation, kernel, strict=True)]
    height, width = ((x.shape[2 + i] - reach[i] - 1) // node.stride[i] + 1 for i in range(2))
    count = len(x)
    sums = np.zeros((count, groups, outputs // groups, height * width), np.float32)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            taps = x[
                :,
                :,
                row * node.dilation[0] :: node.stride[0],
                column * node.dilation[1] :: node.stride[1],
            ][:, :, :height, :width].reshape(count, groups, channels, height * width)
            factors = weight[:, :, row, column].reshape(groups, outputs // groups, channels)
            sums += taps * factors if outputs == channels * groups == groups else factors @ taps
    return sums.reshape(count, outputs, height, width)


def _transposed_conv(node: g.TransposedConv, x: g.Floats) -> g.Floats:
    """Every pixel adds its multiple of the kernel to a larger image, of which the padding is cut off."""
    (channels, outputs, *kernel), groups, count = node.weight.shape, node.groups, len(x)
    size = [
        (x.shape[2 + i] - 1) * node.stride[i] + node.dilation[i] * (kernel[i] - 1) + 1 + node.output_padding[i]
        for i in range(2)
    ]
    whole = np.zeros((count, groups, outputs, *size), np.float32)
    pixels = x.reshape(count, groups, channels // groups, -1)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            factors = node.weight[:, :, row, column].reshape(groups, channels // groups, outputs).transpose(0, 2, 1)
            part = (factors @ pixels).reshape(count, groups, outputs, *x.shape[2:])
            top, left = row * node.dilation[0], column * node.dilation[1]
            bottom, right = ((x.shape[2 + i] - 1) * node.stride[i] + 1 for i in range(2))
            whole[:, :, :, top : top + bottom : node.stride[0], left : left + right : node.stride[1]] += part
    rows, columns = node.padding
    whole = whole.reshape(count, groups * outputs, *size)
    return whole[:, :, rows : size[0] - rows, columns : size[1] - columns] + per_channel(node.bias, x)


def _windows(node: g.Pool, x: g.Floats, outside: float, gather: Callable[[Any, Any], Any]) -> g.Floats:
    x = padded(x, node.padding, outside)
    height, width = ((x.shape[2 + i] - node.kernel[i]) // node.stride[i] + 1 for i in range(2))
    found = None
    for row in range(node.kernel[0]):
        for column in range(node.kernel[1]):
            taps = x[:, :, row :: node.stride[0], column :: node.stride[1]][:, :, :height, :width]
            found = taps if found is None else gather(found, taps)
    assert found is not None
    return found


def padded(x: g.Floats, sides: g.Sides, value: float, channels: g.Pair = (0, 0)) -> g.Floats:
    """x [N, C, H, W] with so many rows above and below, columns left and right, and channels, of a value."""
    top, bottom, left, right = sides
    return np.pad(x, ((0, 0), channels, (top, bottom), (left, right)), constant_values=np.float32(value))


def per_channel(values: g.Floats, like: g.Floats) -> g.Floats:
    """Values [C] shaped to be broadcast over the channels of `like` [N, C, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 2))


def _reduce(node: g.Reduce, x: g.Floats) -> g.Floats:
    reduced = getattr(np, node.operator)(x, axis=node.axes, keepdims=x.ndim == len(node.shape))
    return reduced


def _softmax(node: g.Softmax, x: g.Floats) -> g.Floats:
    x = x - x.max(node.axis, keepdims=True)
    logs = x - np.log(np.exp(x).sum(node.axis, keepdims=True))
    return logs if node.log else np.exp(logs)


def _resize(node: g.Resize, x: g.Floats) -> g.Floats:
    for axis in (2, 3):
        old, new = x.shape[axis], node.shape[axis]
        place = np.arange(new)
        if node.mode == "nearest":
            x = x.take(place * old // new, axis)
            continue
        if node.align_corners:
            at = place * ((old - 1) / max(new - 1, 1))
        else:
            at = np.maximum((place + 0.5) * (old / new) - 0.5, 0)
        low = at.astype(int)
        share = (at - low).astype(np.float32).reshape(-1, *[1] * (3 - axis))
        x = x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, old - 1), axis) * share
    return x


MEANINGS: dict[type[g.Node], Callable[..., Any]] = {
    g.Constant: lambda node: node.value,
    g.Sign: lambda node, x: np.where(x < 0, np.float32(-1), np.float32(1)),
    g.Negative: lambda node, x: np.clip(x * np.float32(-node.gain), 0, 6),
    g.Conv: _conv,
    g.BinaryConv: _binary_conv,
    g.TransposedConv: _transposed_conv,
    g.Dense: lambda node, x: x @ node.weight.T + node.bias,
    g.BinaryDense: lambda node, x: x @ node.signs().T * node.scale + node.bias,
    g.Affine: lambda node, x: x * per_channel(node.scale, x) + per_channel(node.bias, x),
    g.Elementwise: lambda node, x: OPERATORS[node.operator].compute(x, node.settings),
    g.PReLU: lambda node, x: np.where(x < 0, per_channel(node.slope, x) * x, x),
    g.Arithmetic: lambda node, x, y: ARITHMETIC[node.operator].compute(x, y),
    g.MatMul: lambda node, x, y: x @ y,
    g.Concat: lambda node, *inputs: np.concatenate(inputs, node.axis),
    g.Take: lambda node, x: x.take(node.index, node.axis),
    g.Pad: lambda node, x: padded(x, node.padding, node.value, node.channels),
    g.MaxPool: lambda node, x: _windows(node, x, -np.inf, np.maximum),
    g.AveragePool: lambda node, x: _windows(node, x, 0.0, np.add) / np.float32(node.kernel[0] * node.kernel[1]),
    g.Reduce: _reduce,
    g.Softmax: _softmax,
    g.Resize: _resize,
    g.Transpose: lambda node, x: x.transpose(node.permutation),
    g.Reshape: lambda node, x: x.reshape(len(x), *node.shape[1:]),
}
"""What each kind of node computes of the values of its inputs."""
