"""Operators that are a call by themselves, most of which move values."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.export.formats.c.calls import Bits, Offset, Post, Scratch, Step, Window, data_of, number, pad_value
from fsg.export.formats.c.pixels import clamp, window_of
from fsg.export.formats.tflite.lowered import SAME, Operator, Tensor

BROADCAST = {"ADD": 0, "SUB": 1, "MUL": 2, "DIV": 3, "MAXIMUM": 4, "MINIMUM": 5, "PRELU": 6}  # as broadcast.c has them
AXES = 6  # of loops within one another


def integers(values: Any) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _joined(lengths: Any, strides: list[Any]) -> tuple[list[int], list[list[int]]]:
    """The same places with neighbouring axes as one where all strides allow it: `AXES` of them."""
    axes = [(int(n), *(int(s[i]) for s in strides)) for i, n in enumerate(lengths) if n != 1]
    merged: list[tuple[int, ...]] = []
    for axis in axes:
        if merged and all(a == b * axis[0] for a, b in zip(merged[-1][1:], axis[1:], strict=True)):
            merged[-1] = (merged[-1][0] * axis[0], *axis[1:])
        else:
            merged.append(axis)
    if len(merged) > AXES:
        raise FsgError(f"cannot export to C: a value is moved along more than {AXES} axes at once")
    merged = [(1, *[0] * len(strides))] * (AXES - len(merged)) + merged
    return [axis[0] for axis in merged], [[axis[1 + i] for axis in merged] for i in range(len(strides))]


def _strides(shape: tuple[int, ...]) -> list[int]:
    """How far apart values are along each axis, row-major."""
    return [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]


def strided(source: Tensor, at: int, to: Tensor, first: int, lengths: Any, ins: Any, outs: Any) -> Step:
    """Copies values that are `ins` and `outs` apart along axes of these lengths, from and to these places on."""
    lengths, (ins, outs) = _joined(lengths, [ins, outs])
    arguments = [source, Offset(at), to, Offset(first), *map(integers, (lengths, ins, outs))]
    return Step("fsg_copy", arguments, out=to)


def _binary_pool(operator: Operator) -> list[Step]:
    bits, options = operator.inputs[0], operator.options
    assert bits is not None
    kernel = (options["filter_height"], options["filter_width"])
    stride = (options["stride_height"], options["stride_width"])
    channels = 8 * bits.shape[-1]
    window = window_of(operator, kernel, stride, (1, 1), channels, channels)
    return [Step("fsg_binary_pool", [window, Bits(bits), Bits(operator.output)], out=operator.output)]


def _pad(operator: Operator) -> list[Step]:
    source, amounts = operator.inputs[:2]
    assert source is not None
    shape, out = source.shape, _strides(operator.output.shape)
    count = int(np.prod(operator.output.shape))
    fill = Step("fsg_fill", [operator.output, str(count), number(pad_value(operator))], out=operator.output)
    first = int(sum(int(before) * step for (before, _), step in zip(data_of(amounts), out, strict=True)))
    return [fill, strided(source, 0, operator.output, first, shape, _strides(shape), out)]


def _slice(operator: Operator) -> list[Step]:
    source = operator.inputs[0]
    assert source is not None
    begin = data_of(operator.inputs[1])
    steps = data_of(operator.inputs[3]) if operator.code == "STRIDED_SLICE" else np.ones_like(begin)
    strides, shape = _strides(source.shape), operator.output.shape
    first = int(sum(int(at) * stride for at, stride in zip(begin, strides, strict=True)))
    ins = [int(step) * stride for step, stride in zip(steps, strides, strict=True)]
    return [strided(source, first, operator.output, 0, shape, ins, _strides(shape))]


def _concat(operator: Operator) -> list[Step]:
    output, axis = operator.output, operator.options["axis"] % len(operator.output.shape)
    out, at, steps = _strides(output.shape), 0, list[Step]()
    for source in operator.inputs:
        assert source is not None
        steps.append(strided(source, 0, output, at * out[axis], source.shape, _strides(source.shape), out))
        at += source.shape[axis]
    return steps


def _transpose(operator: Operator) -> list[Step]:
    source = operator.inputs[0]
    assert source is not None
    strides, shape = _strides(source.shape), operator.output.shape
    ins = [strides[a] for a in data_of(operator.inputs[1])]
    return [strided(source, 0, operator.output, 0, shape, ins, _strides(shape))]


def _take(operator: Operator) -> list[Step]:
    source, axis = operator.inputs[0], operator.options["axis"]
    assert source is not None
    outer, length = int(np.prod(source.shape[:axis])), source.shape[axis]
    inner, index = int(np.prod(source.shape[axis + 1 :])), data_of(operator.inputs[1]).reshape(-1)
    sizes = [str(outer), str(length), str(inner)]
    arguments = [source, operator.output, *sizes, integers(index), str(len(index))]
    return [Step("fsg_take", arguments, out=operator.output)]


def _broadcast(operator: Operator) -> list[Step]:
    x, y = operator.inputs[:2]
    assert x is not None and y is not None
    shape = operator.output.shape

    def apart(tensor: Tensor) -> list[int]:
        full = (*[1] * (len(shape) - len(tensor.shape)), *tensor.shape)
        return [0 if n == 1 else step for n, step in zip(full, _strides(full), strict=True)]

    lengths, strides = _joined(shape, [apart(x), apart(y)])
    does = str(BROADCAST[operator.code])
    clamps = clamp(operator)
    output = operator.output if not clamps else Tensor(shape)
    arguments = [does, x, y, output, *map(integers, (lengths, *strides))]
    steps = [Step("fsg_broadcast", arguments, out=output)]
    if clamps:
        count = str(int(np.prod(shape)))
        load = Post("LOAD", "FSG_PER_VALUE", output)
        posts = [load, *clamps, Post("STORE", tensor=operator.output)]
        steps.append(Step("fsg_elementwise", [count, "1", Scratch(4)], posts))
    return steps


def _reduce(operator: Operator) -> list[Step]:
    source = operator.inputs[0]
    assert source is not None
    axes = {int(axis) for axis in data_of(operator.inputs[1]).reshape(-1)}
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(source.shape))
    steps = [0 if axis in axes else step for axis, step in enumerate(_strides(kept))]
    lengths, (outs,) = _joined(source.shape, [steps])
    results = int(np.prod(kept))
    does = {"SUM": "0", "MEAN": "1", "REDUCE_MAX": "2"}[operator.code]
    sizes = [str(results), str(int(np.prod(source.shape)) // results)]
    arguments = [does, source, operator.output, *sizes, integers(lengths), integers(outs)]
    return [Step("fsg_reduce", arguments, out=operator.output)]


def _softmax(operator: Operator) -> list[Step]:
    source = operator.inputs[0]
    assert source is not None
    length = source.shape[-1]
    sizes = [str(int(np.prod(source.shape)) // length), str(length), str(int(operator.code == "LOG_SOFTMAX"))]
    return [Step("fsg_softmax", [source, operator.output, *sizes], out=operator.output)]


def _resize(operator: Operator) -> list[Step]:
    source = operator.inputs[0]
    assert source is not None
    size, new, channels = source.shape[1:3], operator.output.shape[1:3], source.shape[3]
    tables: list[Any] = []
    for old, count in zip(size, new, strict=True):
        place = np.arange(count)
        if operator.code == "RESIZE_NEAREST_NEIGHBOR":
            at = (place * old // count).astype(float)
        elif operator.options["alignCorners"]:
            at = place * ((old - 1) / max(count - 1, 1))
        else:
            at = np.maximum((place + 0.5) * (old / count) - 0.5, 0)
        low = at.astype(int)
        tables += [integers(low), (at - low).astype(np.float32)]
    sizes = [str(n) for n in (*size, channels, *new)]
    return [Step("fsg_resize", [source, operator.output, *sizes, *tables], out=operator.output)]


def _matmul(operator: Operator) -> list[Step]:
    x, y = operator.inputs
    assert x is not None and y is not None
    rows, inner, columns = x.shape[-2], x.shape[-1], y.shape[-1]
    outer = operator.output.shape[:-2]
    places = [
        np.broadcast_to(np.arange(int(np.prod(t.shape[:-2]))).reshape(t.shape[:-2]), outer).reshape(-1) for t in (x, y)
    ]
    steps = []
    for i, (a, b) in enumerate(zip(*places, strict=True)):
        offsets = [Offset(int(a) * rows * inner), Offset(int(b) * inner * columns), Offset(i * rows * columns)]
        operands: list[Any] = [x, offsets[0], y, offsets[1], operator.output, offsets[2]]
        sizes = [str(rows), str(inner), str(columns)]
        steps.append(Step("fsg_matmul", [*operands, *sizes], out=operator.output))
    return steps


def _transposed(operator: Operator) -> list[Step]:
    _, weight, image, bias = operator.inputs
    assert image is not None
    weights, options = data_of(weight), operator.options  # [O, KH, KW, I]
    out = operator.output.shape[1:3]
    stride = (options["strideH"], options["strideW"])
    before = (0, 0)
    if options["padding"] == SAME:
        whole = [(n - 1) * step + k for n, step, k in zip(image.shape[1:3], stride, weights.shape[1:3], strict=True)]
        before = (max(whole[0] - out[0], 0) // 2, max(whole[1] - out[1], 0) // 2)
    sizes = (image.shape[1], image.shape[2]), image.shape[3], (out[0], out[1]), len(weights)
    window = Window(*sizes, (weights.shape[1], weights.shape[2]), stride, before=before)
    arguments = [window, image, weights.transpose(1, 2, 3, 0), data_of(bias), operator.output]
    return [Step("fsg_transposed", arguments, out=operator.output)]


MOVES: dict[str, Callable[[Operator], list[Step]]] = {
    "LceBMaxPool2d": _binary_pool,
    "PAD": _pad,
    "PADV2": _pad,
    "SLICE": _slice,
    "STRIDED_SLICE": _slice,
    "CONCATENATION": _concat,
    "TRANSPOSE": _transpose,
    "GATHER": _take,
    **dict.fromkeys(BROADCAST, _broadcast),
    "SUM": _reduce,
    "MEAN": _reduce,
    "REDUCE_MAX": _reduce,
    "SOFTMAX": _softmax,
    "LOG_SOFTMAX": _softmax,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "BATCH_MATMUL": _matmul,
    "TRANSPOSE_CONV": _transposed,
}
