"""What a node of each operator may say: its attributes, its tensors, and the shape that its result must have.

A rule gets the node, whose attributes and tensors are of the right kinds by then, and the shapes of its inputs for one
image. It raises ValueError for what cannot be.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fsg.runtime.model.meaning import ARITHMETIC, ELEMENTWISE

MAX_NUMBERS = 1 << 27
"""Of a value, also while it is padded: 512 MiB as float32 for one image."""
MAX_SIZE = (1 << 31) - 1
MAX_WINDOW = 4096
"""Rows or columns of a pooling window."""

WITH_STEPS = ("Conv", "Dense")
"""Operators whose weights may be integers times a step of their output channel."""

Shape = tuple[int, ...]
Kind = Callable[[Any], Any]  # gives what a node has for what the file says, or raises ValueError


def whole(least: int = 0, most: int = MAX_SIZE) -> Kind:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            end = f" to {most}" if most < MAX_SIZE else ""
            raise ValueError(f"{value!r} is no whole number from {least}{end}")
        return value

    return read


def wholes(count: int | None = None, least: int = 0) -> Kind:
    def read(value: Any) -> Shape:
        if not isinstance(value, list) or count not in (None, len(value)):
            raise ValueError(f"not a list of {count or 'some'} whole numbers")
        return tuple(map(whole(least), value))

    return read


def step(value: Any) -> float:
    """A number greater than 0 that float32 holds."""
    with np.errstate(over="ignore"):
        found = float(np.float32(number(value)))
    if not (found > 0 and math.isfinite(found)):
        raise ValueError(f"{value!r} is no step")
    return found


def number(value: Any) -> float:
    """A number of JSON, or "inf" or "-inf"."""
    if value in ("inf", "-inf"):
        return float(value)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError("not an object of numbers")
    return {name: number(n) for name, n in value.items()}


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def one_of(*words: str) -> Kind:
    def read(value: Any) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError(f"{value!r} is none of {', '.join(words)}")
        return value

    return read


@dataclass(frozen=True)
class Rule:
    """inputs: how many, or None for one and more. attributes: their kinds; `defaults` may be left away in the file.
    tensors: how many axes each has. kinds: of what numbers those are that are not of float32. shape: what it must be.
    """

    shape: Callable[[Any, list[Shape]], Shape]
    inputs: int | None = 1
    attributes: dict[str, Kind] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, int | None] = field(default_factory=dict)
    kinds: dict[str, Any] = field(default_factory=dict)


def require(true: bool, what: str) -> None:
    if not true:
        raise ValueError(what)


def check_size(shape: Shape) -> Shape:
    """The shape, if a value may be as large."""
    require(math.prod(shape) <= MAX_NUMBERS, f"{list(shape)} is more than {MAX_NUMBERS} numbers")
    return shape


def _image(shape: Shape) -> Shape:
    require(len(shape) == 4, f"its input {list(shape)} is no image")
    return shape


def _same(_node: Any, shapes: list[Shape]) -> Shape:
    return shapes[0]


def _per_channel(*names: str) -> Callable[[Any, list[Shape]], Shape]:
    def shape(node: Any, shapes: list[Shape]) -> Shape:
        require(len(shapes[0]) >= 2, "its input has no channels")
        for name in names:
            _lengths(node, name, shapes[0][1], least=1)
        return shapes[0]

    return shape


def _lengths(node: Any, name: str, count: int, least: int | None = None) -> None:
    found = len(getattr(node, name))
    require(found in (count, least), f"{found} values of {name} for {count} channels")


def _slid(size: int, reach: int, stride: int) -> int:
    require(reach <= size, "its window is larger than its input")
    return (size - reach) // stride + 1


def _padded(shape: Shape, sides: Shape) -> Shape:
    top, bottom, left, right = sides
    return check_size((*shape[:2], shape[2] + top + bottom, shape[3] + left + right))


def _conv(node: Any, shapes: list[Shape]) -> Shape:
    shape, (rows, columns) = _image(shapes[0]), node.padding
    outputs, channels, *kernel = node.weight.shape
    _grouped(node, shape[1], channels * node.groups, outputs)
    _lengths(node, "bias", outputs)
    return _window(node, shape, kernel, outputs, (rows, rows, columns, columns))


def _with_steps(shape: Callable[[Any, list[Shape]], Shape]) -> Callable[[Any, list[Shape]], Shape]:
    def checked(node: Any, shapes: list[Shape]) -> Shape:
        _lengths(node, "weight_step", len(node.weight))
        return shape(node, shapes)

    return checked


def _grouped(node: Any, channels: int, wanted: int, outputs: int) -> None:
    require(channels == wanted, f"its weights are for {wanted} channels, not {channels}")
    require(outputs % node.groups == 0, f"{outputs} outputs are not {node.groups} groups")


def _window(node: Any, shape: Shape, kernel: Any, outputs: int, sides: Shape) -> Shape:
    size = _padded(shape, sides)[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(node.dilation, kernel, strict=True)]
    return (shape[0], outputs, *map(_slid, size, reach, node.stride))


def _binary_conv(node: Any, shapes: list[Shape]) -> Shape:
    shape, (rows, columns) = _image(shapes[0]), node.padding
    outputs = len(node.negative)
    require(shape[1] % node.groups == 0, f"{shape[1]} channels are not {node.groups} groups")
    _grouped(node, shape[1], shape[1], outputs)
    _bits(node, shape[1] // node.groups * math.prod(node.kernel))
    return _window(node, shape, node.kernel, outputs, (rows, rows, columns, columns))


def _bits(node: Any, size: int) -> None:
    outputs, words = node.negative.shape
    require(words == -(-size // 32), f"{words} words of weights for {size} signs")
    _lengths(node, "scale", outputs)
    _lengths(node, "bias", outputs)


def _transposed_conv(node: Any, shapes: list[Shape]) -> Shape:
    shape = _image(shapes[0])
    channels, outputs, *kernel = node.weight.shape
    _grouped(node, shape[1], channels, channels)
    _lengths(node, "bias", outputs * node.groups)
    sizes = [
        (shape[2 + i] - 1) * node.stride[i] + node.dilation[i] * (kernel[i] - 1) + 1 + node.output_padding[i]
        for i in range(2)
    ]
    check_size((1, outputs * node.groups, *sizes))
    return (shape[0], outputs * node.groups, *(n - 2 * p for n, p in zip(sizes, node.padding, strict=True)))


def _dense(node: Any, shapes: list[Shape]) -> Shape:
    outputs, size = node.weight.shape
    _along_last(shapes[0], size)
    _lengths(node, "bias", outputs)
    return (*shapes[0][:-1], outputs)


def _along_last(shape: Shape, size: int) -> None:
    require(len(shape) >= 2 and shape[-1] == size, f"its weights are for {size} numbers, not {list(shape)}")


def _binary_dense(node: Any, shapes: list[Shape]) -> Shape:
    require(len(shapes[0]) >= 2, "its input is no row of numbers")
    _bits(node, shapes[0][-1])
    return (*shapes[0][:-1], len(node.negative))


def _elementwise(node: Any, shapes: list[Shape]) -> Shape:
    with np.errstate(all="ignore"):
        ELEMENTWISE[node.operator](np.zeros(1, np.float32), node.settings)  # raises KeyError for want of a setting
    return shapes[0]


def _matmul(_node: Any, shapes: list[Shape]) -> Shape:
    x, y = shapes
    require(len(x) >= 2 and len(y) >= 2 and x[-1] == y[-2], f"{list(x)} and {list(y)} have no product")
    return (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1])


def _axis(axis: int, shape: Shape) -> int:
    require(axis > 0, "it mixes the images of a batch")
    require(axis < len(shape), f"there is no axis {axis} in {list(shape)}")
    return axis


def _concat(node: Any, shapes: list[Shape]) -> Shape:
    first, axis = shapes[0], _axis(node.axis, shapes[0])
    for shape in shapes:
        require(len(shape) == len(first), "its inputs have not as many axes")
        require(shape[:axis] + shape[axis + 1 :] == first[:axis] + first[axis + 1 :], "its inputs do not fit")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _take(node: Any, shapes: list[Shape]) -> Shape:
    shape, axis = shapes[0], _axis(node.axis, shapes[0])
    require(len(node.index) > 0 and max(node.index) < shape[axis], "a place is outside its input")
    return (*shape[:axis], len(node.index), *shape[axis + 1 :])


def _pad(node: Any, shapes: list[Shape]) -> Shape:
    batch, channels, *size = _padded(_image(shapes[0]), node.padding)
    return (batch, channels + sum(node.channels), *size)


def _pool(node: Any, shapes: list[Shape]) -> Shape:
    shape = _padded(_image(shapes[0]), node.padding)
    require(max(node.kernel) <= MAX_WINDOW, f"a window of more than {MAX_WINDOW} rows or columns")
    return (*shape[:2], *map(_slid, shape[2:], node.kernel, node.stride))


def _reduce(node: Any, shapes: list[Shape]) -> Shape:
    shape, kept = shapes[0], len(node.shape) == len(shapes[0])
    axes = {_axis(axis, shape) for axis in node.axes}
    require(0 < len(axes) == len(node.axes), "its axes are not different ones")
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if kept or i not in axes)


def _softmax(node: Any, shapes: list[Shape]) -> Shape:
    _axis(node.axis, shapes[0])
    return shapes[0]


def _resize(node: Any, shapes: list[Shape]) -> Shape:
    require(len(node.shape) == 4, "its result is no image")
    return (*_image(shapes[0])[:2], *node.shape[2:])


def _transpose(node: Any, shapes: list[Shape]) -> Shape:
    require(sorted(node.permutation) == list(range(len(shapes[0]))), "its permutation is none of its input's axes")
    require(node.permutation[:1] == (0,), "it moves the axis of the images")
    return tuple(shapes[0][axis] for axis in node.permutation)


def _reshape(node: Any, shapes: list[Shape]) -> Shape:
    same = math.prod(node.shape) == math.prod(shapes[0]) and len(node.shape) > 0 and node.shape[0] == shapes[0][0]
    require(same, f"{list(shapes[0])} are not as many numbers for an image")
    return tuple(node.shape)


_PAIR, _ONES = wholes(2, 1), [1, 1]
_CONV = {"stride": _PAIR, "padding": wholes(2), "dilation": _PAIR, "groups": whole(1)}
_CONV_DEFAULTS = {"stride": _ONES, "padding": [0, 0], "dilation": _ONES, "groups": 1}
_POOL = {"kernel": _PAIR, "stride": _PAIR, "padding": wholes(4)}
_POOL_DEFAULTS = {"stride": _ONES, "padding": [0, 0, 0, 0]}
_BINARY: dict[str, int | None] = {"negative": 2, "scale": 1, "bias": 1}
_BITS = {"negative": np.uint32}
_ZERO = whole(-128, 127)
_GRID: dict[str, Kind] = {"step": step, "zero": _ZERO}
_GRIDS: dict[str, Kind] = {"source_step": step, "source_zero": _ZERO} | _GRID
_INTEGERS = {"weight": np.int8, "bias": np.int32}

RULES = {
    "Constant": Rule(lambda node, _: node.value.shape, 0, tensors={"value": None}),
    "Sign": Rule(_same),
    "Negative": Rule(_same, 1, {"gain": number}),
    "Conv": Rule(_conv, 1, _CONV, _CONV_DEFAULTS, {"weight": 4, "bias": 1}),
    "BinaryConv": Rule(
        _binary_conv,
        1,
        _CONV | {"kernel": _PAIR, "padding_value": number},
        _CONV_DEFAULTS | {"kernel": _ONES, "padding_value": 0.0},
        _BINARY,
        _BITS,
    ),
    "Quantize": Rule(_same, 1, _GRID),
    "Int8Conv": Rule(
        _with_steps(_conv), 1, _CONV | _GRIDS, _CONV_DEFAULTS, {"weight": 4, "weight_step": 1, "bias": 1}, _INTEGERS
    ),
    "Int8Dense": Rule(
        _with_steps(_dense), 1, _GRIDS, tensors={"weight": 2, "weight_step": 1, "bias": 1}, kinds=_INTEGERS
    ),
    "TransposedConv": Rule(
        _transposed_conv,
        1,
        _CONV | {"output_padding": wholes(2)},
        _CONV_DEFAULTS | {"output_padding": [0, 0]},
        {"weight": 4, "bias": 1},
    ),
    "Dense": Rule(_dense, tensors={"weight": 2, "bias": 1}),
    "BinaryDense": Rule(_binary_dense, tensors=_BINARY, kinds=_BITS),
    "Affine": Rule(_per_channel("scale", "bias"), tensors={"scale": 1, "bias": 1}),
    "Elementwise": Rule(_elementwise, 1, {"operator": one_of(*ELEMENTWISE), "settings": numbers}, {"settings": {}}),
    "PReLU": Rule(_per_channel("slope"), tensors={"slope": 1}),
    "Arithmetic": Rule(lambda _, shapes: tuple(np.broadcast_shapes(*shapes)), 2, {"operator": one_of(*ARITHMETIC)}),
    "MatMul": Rule(_matmul, 2),
    "Concat": Rule(_concat, None, {"axis": whole()}, {"axis": 1}),
    "Take": Rule(_take, 1, {"axis": whole(), "index": wholes()}, {"axis": 1}),
    "Pad": Rule(
        _pad,
        1,
        {"padding": wholes(4), "value": number, "channels": wholes(2)},
        {"padding": [0, 0, 0, 0], "value": 0.0, "channels": [0, 0]},
    ),
    "MaxPool": Rule(_pool, 1, _POOL, _POOL_DEFAULTS),
    "AveragePool": Rule(_pool, 1, _POOL, _POOL_DEFAULTS),
    "Reduce": Rule(_reduce, 1, {"operator": one_of("mean", "sum", "max"), "axes": wholes()}),
    "Softmax": Rule(_softmax, 1, {"axis": whole(), "log": truth}, {"axis": 1, "log": False}),
    "Resize": Rule(
        _resize, 1, {"mode": one_of("nearest", "bilinear"), "align_corners": truth}, {"align_corners": False}
    ),
    "Transpose": Rule(_transpose, 1, {"permutation": wholes()}),
    "Reshape": Rule(_reshape),
}
"""By the operator's name; the first node, "Input", has none of all this."""
