"""What every operator computes of float32 values [N, C, H, W], or of any rank with the batch in front, in plain NumPy.

A node is whatever has the attributes that docs/packed.md lists for its operator, with arrays of NumPy.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Settings = Mapping[str, float]
Sides = tuple[int, int, int, int]


_TANH = np.float32(np.sqrt(2 / np.pi))


def _erf(x: Any) -> Any:
    """The error function of x / sqrt(2)."""
    return np.vectorize(math.erf, otypes=[np.float64])(x * math.sqrt(0.5))


def _sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):  # far below 0 it is 0, but not before float32 cannot say less
        return 1 / (1 + np.exp(-x))


ELEMENTWISE: dict[str, Callable[[Any, Settings], Any]] = {
    "ReLU": lambda x, _: np.maximum(x, 0),
    "ReLU6": lambda x, _: np.clip(x, 0, 6),
    "Hardtanh": lambda x, s: np.clip(x, s["min_val"], s["max_val"]),
    "LeakyReLU": lambda x, s: np.where(x < 0, s["negative_slope"] * x, x),
    "ELU": lambda x, s: np.where(x < 0, s["alpha"] * np.expm1(np.minimum(x, 0)), x),
    "Sigmoid": lambda x, _: _sigmoid(x),
    "Tanh": lambda x, _: np.tanh(x),
    "Hardsigmoid": lambda x, _: np.clip(x + 3, 0, 6) / 6,
    "Hardswish": lambda x, _: x * np.clip(x + 3, 0, 6) / 6,
    "GELU": lambda x, s: 0.5 * x * (1 + (np.tanh(_TANH * (x + 0.044715 * x**3)) if s["approximate"] else _erf(x))),
    "Exp": lambda x, _: np.exp(x),
    "Log": lambda x, _: np.log(x),
    "Abs": lambda x, _: np.abs(x),
    "Sqrt": lambda x, _: np.sqrt(x),
    "Sign": lambda x, _: np.sign(x),
    "Round": lambda x, _: np.rint(x),
    "Floor": lambda x, _: np.floor(x),
    "Ceil": lambda x, _: np.ceil(x),
}
"""What is done to every value by itself, by the name of its layer in torch.nn, with the settings of that layer."""

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}
"""What is done to two values that are broadcast to one shape."""


def _sides(node: Any) -> Sides:
    rows, columns = node.padding
    return rows, rows, columns, columns


def _conv(node: Any, x: Floats) -> Floats:
    return convolve(padded(x, _sides(node), 0.0), node.weight, node) + per_channel(node.bias, x)


def _binary_conv(node: Any, x: Floats) -> Floats:
    sums = convolve(padded(x, _sides(node), node.padding_value), node.signs(), node)
    return sums * per_channel(node.scale, x) + per_channel(node.bias, x)


def _on_grid(values: Any, step: float, zero: int) -> Floats:
    """The nearest (q - zero) * step, of values that are counted in steps."""
    return (np.clip(np.rint(values) + zero, -128, 127) - zero).astype(np.float32) * np.float32(step)


def _requantized(node: Any, sums: Any) -> Floats:
    """What a layer on integers makes of its sums [N, O, ...], which float64 holds exactly."""
    step = np.float32(node.source_step) * node.weight_step / np.float32(node.step)
    whole = (sums + per_channel(node.bias, sums)).astype(np.float32)
    return _on_grid(whole * per_channel(step, sums), node.step, node.zero)


def _whole(node: Any, x: Floats) -> NDArray[np.float64]:
    return np.rint(x.astype(np.float64) / np.float64(np.float32(node.source_step)))


def _int8_conv(node: Any, x: Floats) -> Floats:
    return _requantized(
        node, convolve(padded(_whole(node, x), _sides(node), 0.0), node.weight.astype(np.float64), node)
    )


def _int8_dense(node: Any, x: Floats) -> Floats:
    sums = _whole(node, x) @ node.weight.T.astype(np.float64)
    return np.moveaxis(_requantized(node, np.moveaxis(sums, -1, 1)), 1, -1)


def convolve(x: Any, weight: Any, node: Any) -> Any:
    """The sums of a convolution of x [N, C, H, W] as it is, without padding: one matrix product for each tap."""
    (outputs, channels, *kernel), groups = weight.shape, node.groups
    reach = [dilation * (size - 1) for dilation, size in zip(node.dilation, kernel, strict=True)]
    height, width = ((x.shape[2 + i] - reach[i] - 1) // node.stride[i] + 1 for i in range(2))
    count = len(x)
    sums = np.zeros((count, groups, outputs // groups, height * width), x.dtype)
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


def _transposed_conv(node: Any, x: Floats) -> Floats:
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


def _windows(node: Any, x: Floats, outside: float, gather: Callable[[Any, Any], Any]) -> Floats:
    x = padded(x, node.padding, outside)
    for axis, size, stride in zip((2, 3), node.kernel, node.stride, strict=True):
        count = (x.shape[axis] - size) // stride + 1
        found = None
        for tap in range(size):
            window = slice(tap, tap + (count - 1) * stride + 1, stride)
            taps = x[:, :, window] if axis == 2 else x[..., window]
            found = taps if found is None else gather(found, taps)
        assert found is not None
        x = found
    return x


def padded(x: Any, sides: Sides, value: float, channels: tuple[int, int] = (0, 0)) -> Any:
    """x [N, C, H, W] with so many rows above and below, columns left and right, and channels, of a value."""
    top, bottom, left, right = sides
    return np.pad(x, ((0, 0), channels, (top, bottom), (left, right)), constant_values=x.dtype.type(value))


def per_channel(values: Any, like: Any) -> Any:
    """Values [C] shaped to be broadcast over the channels of `like` [N, C, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 2))


def _concat(node: Any, *inputs: Floats) -> Floats:
    count = max(map(len, inputs))  # a constant is there once
    return np.concatenate([x if len(x) == count else x.repeat(count, 0) for x in inputs], node.axis)


def _reduce(node: Any, x: Floats) -> Floats:
    reduced = getattr(np, node.operator)(x, axis=node.axes, keepdims=x.ndim == len(node.shape))
    return reduced


def _softmax(node: Any, x: Floats) -> Floats:
    x = x - x.max(node.axis, keepdims=True)
    logs = x - np.log(np.exp(x).sum(node.axis, keepdims=True))
    return logs if node.log else np.exp(logs)


def _resize(node: Any, x: Floats) -> Floats:
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


MEANINGS: dict[str, Callable[..., Any]] = {
    "Constant": lambda node: node.value,
    "Sign": lambda node, x: np.where(x < 0, np.float32(-1), np.float32(1)),
    "Negative": lambda node, x: np.clip(x * np.float32(-node.gain), 0, 6),
    "Conv": _conv,
    "BinaryConv": _binary_conv,
    "TransposedConv": _transposed_conv,
    "Dense": lambda node, x: x @ node.weight.T + node.bias,
    "BinaryDense": lambda node, x: x @ node.signs().T * node.scale + node.bias,
    "Quantize": lambda node, x: _on_grid(x * (1 / np.float32(node.step)), node.step, node.zero),
    "Int8Conv": _int8_conv,
    "Int8Dense": _int8_dense,
    "Affine": lambda node, x: x * per_channel(node.scale, x) + per_channel(node.bias, x),
    "Elementwise": lambda node, x: ELEMENTWISE[node.operator](x, node.settings),
    "PReLU": lambda node, x: np.where(x < 0, per_channel(node.slope, x) * x, x),
    "Arithmetic": lambda node, x, y: ARITHMETIC[node.operator](x, y),
    "MatMul": lambda node, x, y: x @ y,
    "Concat": _concat,
    "Take": lambda node, x: x.take(node.index, node.axis),
    "Pad": lambda node, x: padded(x, node.padding, node.value, node.channels),
    "MaxPool": lambda node, x: _windows(node, x, -np.inf, np.maximum),
    "AveragePool": lambda node, x: _windows(node, x, 0.0, np.add) / np.float32(node.kernel[0] * node.kernel[1]),
    "Reduce": _reduce,
    "Softmax": _softmax,
    "Resize": _resize,
    "Transpose": lambda node, x: x.transpose(node.permutation),
    "Reshape": lambda node, x: x.reshape(len(x), *node.shape[1:]),
}
"""What each kind of node computes of the values of its inputs, by its operator."""
