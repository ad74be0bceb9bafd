"""Rules for what has weights, and for pools."""

import itertools
from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.reading.arithmetic import affine
from fsg.export.reading.builder import Builder, Value
from fsg.export.reading.rules import reads
from fsg.export.reading.shapes import pad_image, reshaped, take, turned

CONVOLUTION = "weight bias stride padding dilation groups"


def pair(value: Any) -> g.Pair:
    """One number for both axes, or one each."""
    if np.ndim(value) == 0:
        return int(value), int(value)
    first, *others = value
    return int(first), int(others[0] if others else first)


def fixed(b: Builder, value: Any, what: str) -> np.ndarray:
    """A weight, float32. Errors: FsgError where it depends on the image."""
    if isinstance(value, Value):
        raise b.refuse(f"its {what} depends on the image; only fixed ones are exported")
    return np.ascontiguousarray(value, np.float32)


def bias_of(b: Builder, bias: Any, count: int) -> np.ndarray:
    return np.zeros(count, np.float32) if bias is None else fixed(b, bias, "bias")


@reads(
    layers="Conv2d BinaryConv2d",
    attributes=f"{CONVOLUTION} padding_mode",
    functions="conv2d",
    arguments=f"input {CONVOLUTION}",
    becomes="convolution; binary where its weights are +c and -c and it reads signs",
)
def convolution(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    binary: bool = False,
) -> Value:
    weight = fixed(b, weight, "weight")
    if len(x.shape) != 4:
        raise b.refuse(f"its input has {len(x.shape)} axes; it needs [N, C, H, W]")
    stride, dilation = pair(stride), pair(dilation)
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if padding == "same":
        sides = (reach[0] // 2, reach[0] - reach[0] // 2, reach[1] // 2, reach[1] - reach[1] // 2)
    else:
        rows, columns = (0, 0) if padding == "valid" else pair(padding)
        sides = (rows, rows, columns, columns)
    if padding_mode != "zeros" or sides[::2] != sides[1::2]:
        x = pad_image(b, x, sides, "constant" if padding_mode == "zeros" else padding_mode, padding_value)
        sides = (0, 0, 0, 0)
    size = [(x.shape[2 + i] + 2 * sides[2 * i] - reach[i] - 1) // stride[i] + 1 for i in range(2)]
    settings: dict[str, Any] = {
        "shape": (1, len(weight), *size),
        "stride": stride,
        "padding": sides[::2],
        "dilation": dilation,
        "groups": int(groups),
        "bias": bias_of(b, bias, len(weight)),
    }
    if binary:
        return b.add(g.BinaryConv, x, **settings, **signs_of(b, weight), padding_value=padding_value)
    return b.add(g.Conv, x, **settings, weight=weight)


@reads(
    layers="Conv1d",
    attributes=f"{CONVOLUTION} padding_mode",
    functions="conv1d",
    arguments=f"input {CONVOLUTION}",
    becomes="convolution of an image of one row",
)
def convolution_of_a_row(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Value:
    def beside(value: Any, rows: int) -> Any:
        return value if isinstance(value, str) else (rows, int(np.ravel(value)[0]))

    if len(x.shape) != 3:
        raise b.refuse(f"its input has {len(x.shape)} axes; it needs [N, C, L]")
    row = reshaped(b, x, (1, x.shape[1], 1, x.shape[2]), "row")
    weight = fixed(b, weight, "weight")[:, :, None]
    window = (beside(stride, 1), beside(padding, 0), beside(dilation, 1))
    result = convolution(b, row, weight, bias, *window, groups, padding_mode)
    return reshaped(b, result, (*result.shape[:2], result.shape[3]), "column")


def signs_of(b: Builder, weight: np.ndarray) -> dict[str, Any]:
    """Signs and scale of binary weights, from what the forward pass uses."""
    bits = g.one_bit(weight)
    if bits is None:
        raise b.refuse("its quantised weights are not +c or -c in every output channel")
    return {"negative": bits[0], "scale": bits[1]}


@reads(
    layers="ConvTranspose2d",
    attributes=f"{CONVOLUTION} output_padding padding_mode",
    functions="conv_transpose2d",
    arguments="input weight bias stride padding output_padding groups dilation",
    becomes="transposed convolution",
)
def transposed_convolution(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    padding_mode: str = "zeros",
) -> Value:
    weight = fixed(b, weight, "weight")
    settings = {
        "weight": weight,
        "bias": bias_of(b, bias, weight.shape[1] * groups),
        "stride": pair(stride),
        "padding": pair(padding),
        "dilation": pair(dilation),
        "output_padding": pair(output_padding),
    }
    return b.add(g.TransposedConv, x, groups=int(groups), **settings)


@reads(
    layers="Linear BinaryLinear",
    attributes="weight bias",
    functions="linear",
    arguments="input weight bias",
    becomes="matrix product; binary where its weights are +c and -c and it reads signs",
)
def linear(b: Builder, x: Value, weight: Any, bias: Any = None, binary: bool = False) -> Value:
    weight = fixed(b, weight, "weight")
    shape = (*x.shape[:-1], len(weight))
    if binary:
        return b.add(g.BinaryDense, x, shape=shape, bias=bias_of(b, bias, len(weight)), **signs_of(b, weight))
    return b.add(g.Dense, x, shape=shape, weight=weight, bias=bias_of(b, bias, len(weight)))


@reads(
    functions="matmul mm bmm",
    arguments="input other",
    becomes="matrix product, of fixed weights or of two values",
)
def product(b: Builder, x: Any, other: Any) -> Value:
    if isinstance(x, Value) and isinstance(other, Value):
        if min(len(x.shape), len(other.shape)) < 3 or len(x.shape) != len(other.shape):
            raise b.refuse("it mixes the images of a batch; only what each image does by itself is exported")
        return b.add(g.MatMul, x, other)
    if not isinstance(x, Value):
        last = len(other.shape) - 1
        order = (*range(last - 1), last, last - 1)
        weight = fixed(b, x, "left side")
        if weight.ndim != 2 or last < 2:
            raise b.refuse("only one fixed matrix in front of a value of three axes or more is exported")
        return turned(b, linear(b, turned(b, other, order), weight), order)
    weight = fixed(b, other, "right side")
    if weight.ndim != 2:
        raise b.refuse(f"its weights have {weight.ndim} axes; only matrices are exported")
    return linear(b, x, weight.T)


@reads(
    layers="BatchNorm2d BatchNorm1d SyncBatchNorm",
    attributes="running_mean running_var weight bias eps",
    functions="batch_norm",
    arguments="input running_mean running_var weight bias training momentum eps",
    becomes="a factor and a summand for each channel, most often within the layer before",
)
def batch_norm(
    b: Builder,
    x: Value,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    if running_mean is None or running_var is None or training:
        raise b.refuse("it keeps no running statistics; build it with track_running_stats=True")
    count = x.shape[1]
    mean, variance = (fixed(b, value, "statistics").astype(np.float64) for value in (running_mean, running_var))
    gamma = np.ones(count, np.float32) if weight is None else fixed(b, weight, "weight")
    scale = gamma / np.sqrt(variance + eps)
    shift = bias_of(b, bias, count) - mean * scale
    return b.add(g.Affine, x, shape=x.shape, scale=scale.astype(np.float32), bias=shift.astype(np.float32))


# --- pools ------------------------------------------------------------------------------------------------
def _sides(x: Value, kernel: g.Pair, stride: g.Pair, padding: g.Pair, ceil_mode: bool) -> tuple[g.Sides, g.Pair]:
    """The padding with what `ceil_mode` adds at the end, and the size of the result."""
    sides: list[int] = []
    size = []
    for axis in range(2):
        length, p, k, s = x.shape[2 + axis], padding[axis], kernel[axis], stride[axis]
        rest = length + 2 * p - k
        outputs = (-(-rest // s) if ceil_mode else rest // s) + 1
        if ceil_mode and (outputs - 1) * s >= length + p:  # a window must start inside
            outputs -= 1
        sides += [p, max(p, (outputs - 1) * s + k - length - p)]
        size.append(outputs)
    return (sides[0], sides[1], sides[2], sides[3]), (size[0], size[1])


@reads(
    layers="MaxPool2d",
    attributes="kernel_size stride padding dilation ceil_mode return_indices",
    functions="max_pool2d",
    arguments="input kernel_size stride padding dilation ceil_mode return_indices",
    becomes="maximum over windows",
)
def max_pool(
    b: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    if pair(dilation) != (1, 1) or return_indices:
        raise b.refuse("only pooling without dilation and return_indices is exported")
    kernel, steps = pair(kernel_size), pair(kernel_size if stride is None or stride == [] else stride)
    sides, size = _sides(x, kernel, steps, pair(padding), ceil_mode)
    return b.add(g.MaxPool, x, shape=(*x.shape[:2], *size), kernel=kernel, stride=steps, padding=sides)


@reads(
    layers="AvgPool2d",
    attributes="kernel_size stride padding ceil_mode count_include_pad divisor_override",
    functions="avg_pool2d",
    arguments="input kernel_size stride padding ceil_mode count_include_pad divisor_override",
    becomes="mean over windows",
)
def average_pool(
    b: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel, steps = pair(kernel_size), pair(kernel_size if stride is None or stride == [] else stride)
    rows_columns = pair(padding)
    sides, size = _sides(x, kernel, steps, rows_columns, ceil_mode)
    counts = []
    for axis in range(2):  # how many pixels of each window count
        start = np.arange(size[axis]) * steps[axis] - rows_columns[axis]
        end = np.minimum(start + kernel[axis], x.shape[2 + axis] + rows_columns[axis])
        inside = np.minimum(end, x.shape[2 + axis]) - np.maximum(start, 0)
        counts.append(end - start if count_include_pad else inside)
    divisor = np.multiply.outer(*counts) if divisor_override is None else np.full(size, divisor_override)
    share = (kernel[0] * kernel[1] / divisor).astype(np.float32)
    uniform = bool((share == share[0, 0]).all())
    plain = uniform and share[0, 0] == 1
    pooled = b.add(
        g.AveragePool,
        x,
        part="" if plain else "sum",
        shape=(*x.shape[:2], *size),
        kernel=kernel,
        stride=steps,
        padding=sides,
    )
    if plain:
        return pooled
    if uniform:
        return affine(b, pooled, share[0, 0], 0)
    return b.add(g.Arithmetic, pooled, b.constant(share[None, None]), operator="mul", shape=pooled.shape)


def _adaptive(b: Builder, x: Value, output_size: Any, operator: str) -> Value:
    wanted = (output_size, output_size) if np.ndim(output_size) == 0 else tuple(output_size)
    size = tuple(have if want is None else int(want) for have, want in zip(x.shape[2:], wanted, strict=True))
    if size == x.shape[2:]:
        return x
    if size == (1, 1):
        return b.add(g.Reduce, x, operator=operator, axes=(2, 3), shape=(*x.shape[:2], 1, 1))
    windows = [
        [range(i * have // want, -(-(i + 1) * have // want)) for i in range(want)]
        for have, want in zip(x.shape[2:], size, strict=True)
    ]
    kernel, stride = zip(*map(_common, windows), strict=True)
    if all(kernel) and all(stride):
        kind = g.AveragePool if operator == "mean" else g.MaxPool
        return b.add(kind, x, shape=(*x.shape[:2], *size), kernel=kernel, stride=stride, padding=(0, 0, 0, 0))
    for axis, places in zip((2, 3), windows, strict=True):  # windows of several sizes: one by one
        parts = []
        for place in places:
            part = take(b, x, axis, place, part="window")
            shape = tuple(1 if i == axis else length for i, length in enumerate(part.shape))
            parts.append(b.add(g.Reduce, part, part="pooled", operator=operator, axes=(axis,), shape=shape))
        x = b.add(g.Concat, *parts, part="rows" if axis == 2 else "", axis=axis)
    return x


def _common(windows: list[range]) -> g.Pair:
    """The length that windows have in common, and the step from one to the next; 0 where there is none."""
    lengths = {len(window) for window in windows}
    steps = {after.start - before.start for before, after in itertools.pairwise(windows)} or {1}
    return (lengths.pop() if len(lengths) == 1 else 0), (steps.pop() if len(steps) == 1 else 0)


@reads(
    layers="AdaptiveAvgPool2d",
    attributes="output_size",
    functions="adaptive_avg_pool2d",
    arguments="input output_size",
    becomes="mean over the image, or over windows",
)
def adaptive_average_pool(b: Builder, x: Value, output_size: Any) -> Value:
    return _adaptive(b, x, output_size, "mean")


@reads(
    layers="AdaptiveMaxPool2d",
    attributes="output_size return_indices",
    functions="adaptive_max_pool2d",
    arguments="input output_size return_indices",
    becomes="maximum over the image, or over windows",
)
def adaptive_max_pool(b: Builder, x: Value, output_size: Any, return_indices: bool = False) -> Value:
    if return_indices:
        raise b.refuse("only pooling without return_indices is exported")
    return _adaptive(b, x, output_size, "max")
