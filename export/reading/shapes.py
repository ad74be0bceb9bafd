"""Rules for what moves values without computing: slices, joins, padding, other shapes, other sizes."""

import itertools
import math
from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.reading.builder import BATCH, Builder, Value
from fsg.export.reading.rules import reads


def axis_of(b: Builder, x: Value, axis: Any) -> int:
    """An axis counted from the front. Errors: FsgError for that of the images."""
    place = int(axis) % max(len(x.shape), 1)
    if place == 0:
        raise b.refuse("it works across the images of a batch; only what each image does by itself is exported")
    return place


def numbers(values: tuple[Any, ...]) -> list[int]:
    """Sizes or axes, given one by one or as one list."""
    if len(values) == 1 and np.ndim(values[0]) == 1:
        values = tuple(values[0])
    return [int(value) for value in values]


def take(b: Builder, x: Value, axis: int, index: Any, part: str = "") -> Value:
    """The values at some places; x itself where those are all, in order."""
    places = tuple(int(place) for place in index)
    if places == tuple(range(x.shape[axis])):
        return x
    shape = tuple(len(places) if i == axis else length for i, length in enumerate(x.shape))
    return b.add(g.Take, x, part=part, axis=axis, index=places, shape=shape)


def reshaped(b: Builder, x: Value, shape: tuple[int, ...], part: str = "") -> Value:
    """The same values in another shape, whose first axis is the batch."""
    if shape == x.shape:
        return x
    if shape[:1] != (1,) or math.prod(shape) != math.prod(x.shape):
        raise b.refuse(f"it makes {list(shape)} of {list(x.shape)} and mixes the images of a batch")
    return b.add(g.Reshape, x, part=part, shape=shape)


def one_image(value: Any) -> np.ndarray:
    """A tensor that was made for every image of the batch alike, for one."""
    array = np.asarray(value, np.float32)
    return array[:1] if array.ndim and len(array) == BATCH and (array[:1] == array).all() else array


def of_every_image(b: Builder, constant: Any, like: Value) -> Value:
    """A constant as a value that is there for every image of a batch, as `like` is."""
    axes = tuple(range(1, len(like.shape)))
    array = one_image(constant)
    one = b.add(g.Reduce, like, part="any", operator="mean", axes=axes, shape=(1,) * len(like.shape))
    none = b.add(
        g.Affine, one, part="none", scale=np.zeros(1, np.float32), bias=np.zeros(1, np.float32), shape=one.shape
    )
    zero = reshaped(b, none, (1,) * array.ndim, part="zero")
    return b.add(g.Arithmetic, zero, b.constant(array), part="spread", operator="add", shape=array.shape)


# --- other shapes -----------------------------------------------------------------------------------------
@reads(
    layers="Flatten Unflatten",
    functions="flatten view reshape squeeze unsqueeze unflatten view_as reshape_as squeeze_ unsqueeze_",
    arguments="input",
    becomes="another shape of the same values",
)
def reshape(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    return reshaped(b, x, b.result)


def turned(b: Builder, x: Value, order: tuple[int, ...]) -> Value:
    """The axes in another order, which begins with that of the images."""
    if order == tuple(range(len(order))):
        return x
    if order[0] != 0:
        raise b.refuse("it moves the axis of the images; only what each image does by itself is exported")
    return b.add(g.Transpose, x, permutation=order)


@reads(functions="permute", arguments="input dims", becomes="the axes in another order")
def permute(b: Builder, x: Value, *dims: Any, **named: Any) -> Value:
    return turned(b, x, tuple(axis % len(x.shape) for axis in numbers(dims or (named["dims"],))))


@reads(functions="transpose swapaxes swapdims", arguments="input dim0 dim1", becomes="the axes in another order")
def transpose(b: Builder, x: Value, dim0: int, dim1: int) -> Value:
    order = list(range(len(x.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return turned(b, x, tuple(order))


@reads(functions="movedim moveaxis", arguments="input source destination", becomes="the axes in another order")
def movedim(b: Builder, x: Value, source: Any, destination: Any) -> Value:
    sizes = np.empty(range(1, len(x.shape) + 1))
    return turned(b, x, tuple(size - 1 for size in np.moveaxis(sizes, source, destination).shape))


@reads(functions="mT", arguments="input", becomes="the axes in another order")
def matrix_transpose(b: Builder, x: Value) -> Value:
    return transpose(b, x, -1, -2)


# --- slices and joins -------------------------------------------------------------------------------------
@reads(functions="getitem", arguments="input index", becomes="a slice")
def getitem(b: Builder, x: Any, index: Any) -> Any:
    if not isinstance(x, Value):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(entry, Value) for entry in index):
        raise b.refuse("its places depend on the image; only fixed ones are exported")
    given = sum(entry is not None and entry is not Ellipsis for entry in index)
    if Ellipsis not in [entry for entry in index if not isinstance(entry, np.ndarray)]:
        index = (*index, Ellipsis)
    shape: list[int] = []
    axis = 0
    for entry in index:
        if entry is Ellipsis:
            rest = len(x.shape) - given
            shape += x.shape[axis : axis + rest]
            axis += rest
        elif entry is None:
            shape.append(1)
        else:
            if axis == 0 and not (isinstance(entry, slice) and entry.indices(BATCH) == (0, BATCH, 1)):
                raise b.refuse("it takes some images of a batch; only what each image does by itself is exported")
            if axis == 0:
                entry = slice(None)
            whole = np.arange(x.shape[axis])
            chosen = whole[entry if isinstance(entry, slice) else np.asarray(entry).astype(int)]
            x = take(b, x, axis, np.atleast_1d(chosen), part="" if given == 1 else "slice")
            if np.ndim(chosen):
                shape.append(x.shape[axis])
            axis += 1
    return reshaped(b, x, tuple(shape), part="reshape")


@reads(
    functions="split chunk tensor_split split_with_sizes",
    arguments="input sizes dim",
    becomes="slices",
)
def split(b: Builder, x: Value, sizes: Any = None, dim: int = 0, **_: Any) -> Any:
    axis = axis_of(b, x, dim)
    ends = np.cumsum([0, *(shape[axis] for shape in b.result)])
    return tuple(take(b, x, axis, range(*places), part="part") for places in itertools.pairwise(ends))


@reads(functions="unbind", arguments="input dim", becomes="slices")
def unbind(b: Builder, x: Value, dim: int = 0) -> Any:
    return tuple(select(b, x, dim, place) for place in range(x.shape[axis_of(b, x, dim)]))


@reads(functions="narrow", arguments="input dim start length", becomes="a slice")
def narrow(b: Builder, x: Value, dim: int, start: int, length: int) -> Value:
    axis = axis_of(b, x, dim)
    return take(b, x, axis, range(start % x.shape[axis], start % x.shape[axis] + length))


@reads(functions="select", arguments="input dim index", becomes="a slice")
def select(b: Builder, x: Value, dim: int, index: int) -> Value:
    axis = axis_of(b, x, dim)
    one = take(b, x, axis, [index % x.shape[axis]], part="slice")
    return reshaped(b, one, tuple(length for i, length in enumerate(x.shape) if i != axis))


@reads(functions="index_select", arguments="input dim index", becomes="values at fixed places")
def index_select(b: Builder, x: Value, dim: int, index: Any) -> Value:
    if isinstance(index, Value):
        raise b.refuse("its places depend on the image; only fixed ones are exported")
    return take(b, x, axis_of(b, x, dim), np.asarray(index).ravel())


@reads(functions="flip", arguments="input dims", becomes="values at fixed places")
def flip(b: Builder, x: Value, *axes: Any, dims: Any = ()) -> Value:
    for dim in numbers(axes or (dims,)):
        axis = axis_of(b, x, dim)
        x = take(b, x, axis, range(x.shape[axis])[::-1])
    return x


@reads(functions="roll", arguments="input shifts dims", becomes="values at fixed places")
def roll(b: Builder, x: Value, shifts: Any, dims: Any = None) -> Value:
    if dims is None:
        raise b.refuse("it needs the axes to roll along")
    for shift, dim in zip(np.atleast_1d(shifts), np.atleast_1d(dims), strict=True):
        axis = axis_of(b, x, dim)
        x = take(b, x, axis, np.roll(np.arange(x.shape[axis]), shift))
    return x


@reads(
    layers="ChannelShuffle",
    attributes="groups",
    functions="channel_shuffle",
    arguments="input groups",
    becomes="the channels in another order",
)
def channel_shuffle(b: Builder, x: Value, groups: int) -> Value:
    return take(b, x, 1, np.arange(x.shape[1]).reshape(groups, -1).T.ravel())


@reads(functions="expand expand_as broadcast_to repeat tile", arguments="input", becomes="values at fixed places")
def expand(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    """Of a tensor whose axes are repeated: along each, the places 0, 1, ... again and again."""
    result = b.result
    if len(result) != len(x.shape):
        raise b.refuse(f"it makes {list(result)} of {list(x.shape)}; only as many axes as before are exported")
    for axis in range(1, len(result)):
        x = take(b, x, axis, np.arange(result[axis]) % x.shape[axis])
    return x


@reads(
    functions="cat concat concatenate",
    arguments="tensors dim",
    becomes="values side by side",
)
def cat(b: Builder, tensors: Any, dim: int = 0, axis: int | None = None) -> Value:
    first = next(value for value in tensors if isinstance(value, Value))
    along = axis_of(b, first, dim if axis is None else axis)
    values = [value if isinstance(value, Value) else of_every_image(b, value, first) for value in tensors]
    if len(values) == 1:
        return values[0]
    return b.add(g.Concat, *values, axis=along)


@reads(functions="stack", arguments="tensors dim", becomes="values side by side")
def stack(b: Builder, tensors: Any, dim: int = 0) -> Value:
    first = next(value for value in tensors if isinstance(value, Value))
    axis = int(dim) % (len(first.shape) + 1)
    if axis == 0:
        raise b.refuse("it works across the images of a batch; only what each image does by itself is exported")
    shape = (*first.shape[:axis], 1, *first.shape[axis:])
    values = [
        reshaped(b, value, shape, part="part")
        if isinstance(value, Value)
        else of_every_image(b, one_image(value).reshape(shape), first)
        for value in tensors
    ]
    return b.add(g.Concat, *values, axis=axis)


# --- padding and sizes ------------------------------------------------------------------------------------
def pad_image(b: Builder, x: Value, sides: g.Sides, mode: str, value: float, channels: g.Pair = (0, 0)) -> Value:
    """Pads or, by negative numbers, crops an image."""
    if mode == "constant":
        kept = [
            range(max(0, -before), x.shape[2 + i] - max(0, -after)) for i, (before, after) in enumerate(_pairs(sides))
        ]
        x = take(b, take(b, x, 2, kept[0], part="crop"), 3, kept[1], part="crop")
        more = tuple(max(0, side) for side in sides)
        if not any(more) and not any(channels):
            return x
        return b.add(g.Pad, x, part="pad", padding=more, value=float(value), channels=channels)
    for axis, (before, after) in zip((2, 3), _pairs(sides), strict=True):
        length = x.shape[axis]
        places = np.arange(-before, length + after)
        if mode in ("replicate",):
            places = np.clip(places, 0, length - 1)
        elif mode == "circular":
            places = places % length
        else:  # reflect
            places = np.abs(places)
            places = np.where(places >= length, 2 * (length - 1) - places, places)
        x = take(b, x, axis, places, part="pad")
    return x


def _pairs(sides: g.Sides) -> tuple[g.Pair, g.Pair]:
    return (sides[0], sides[1]), (sides[2], sides[3])


@reads(
    layers="ZeroPad2d ConstantPad2d ReflectionPad2d ReplicationPad2d CircularPad2d",
    attributes="padding value",
    functions="pad",
    arguments="input pad mode value",
    becomes="padding, by a value or by the image's own pixels",
    kinds=True,
)
def pad(
    b: Builder,
    x: Value,
    pad: Any = None,
    mode: str = "constant",
    value: Any = None,
    padding: Any = None,
    kind: str = "",
) -> Value:
    modes = {"ReflectionPad2d": "reflect", "ReplicationPad2d": "replicate", "CircularPad2d": "circular"}
    mode = modes.get(kind, mode)
    amounts = [int(amount) for amount in (padding if pad is None else pad)]
    if len(x.shape) != 4 or len(amounts) > 6 or (len(amounts) == 6 and (mode != "constant" or min(amounts[4:]) < 0)):
        raise b.refuse("only images [N, C, H, W] are padded, and with zeros their channels")
    left, right, top, bottom, front, back = [*amounts, *[0] * (6 - len(amounts))]
    return pad_image(b, x, (top, bottom, left, right), mode, value or 0.0, (front, back))


@reads(
    layers="Upsample UpsamplingNearest2d UpsamplingBilinear2d",
    attributes="size scale_factor mode align_corners",
    functions="interpolate upsample",
    arguments="input size scale_factor mode align_corners recompute_scale_factor antialias",
    becomes="another size, by the nearest pixel or the four around",
)
def interpolate(
    b: Builder,
    x: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    if mode not in ("nearest", "bilinear") or antialias or len(x.shape) != 4:
        raise b.refuse('only mode "nearest" and "bilinear" of images [N, C, H, W] are exported')
    if size is None:
        factors = [float(factor) for factor in (scale_factor if np.ndim(scale_factor) else [scale_factor] * 2)]
        exact = [factor * length for factor, length in zip(factors, x.shape[2:], strict=True)]
        if any(value != int(value) for value in exact) and not recompute_scale_factor:
            raise b.refuse(f"its factor leaves no whole number of {list(x.shape[2:])} pixels; give it a size")
        size = [int(value) for value in exact]
    rows, columns = (int(length) for length in (size if np.ndim(size) else [size] * 2))
    if (rows, columns) == x.shape[2:]:
        return x
    return b.add(g.Resize, x, mode=mode, align_corners=bool(align_corners), shape=(*x.shape[:2], rows, columns))


@reads(
    layers="PixelShuffle",
    attributes="upscale_factor",
    functions="pixel_shuffle",
    arguments="input upscale_factor",
    becomes="channels moved to pixels",
)
def pixel_shuffle(b: Builder, x: Value, upscale_factor: int) -> Value:
    r, (_, channels, height, width) = int(upscale_factor), x.shape
    parts = reshaped(b, x, (1, channels // r**2, r, r, height, width), part="parts")
    moved = b.add(g.Transpose, parts, part="moved", permutation=(0, 1, 4, 2, 5, 3))
    return reshaped(b, moved, (1, channels // r**2, height * r, width * r))


@reads(
    layers="PixelUnshuffle",
    attributes="downscale_factor",
    functions="pixel_unshuffle",
    arguments="input downscale_factor",
    becomes="pixels moved to channels",
)
def pixel_unshuffle(b: Builder, x: Value, downscale_factor: int) -> Value:
    r, (_, channels, height, width) = int(downscale_factor), x.shape
    parts = reshaped(b, x, (1, channels, height // r, r, width // r, r), part="parts")
    moved = b.add(g.Transpose, parts, part="moved", permutation=(0, 1, 3, 5, 2, 4))
    return reshaped(b, moved, (1, channels * r**2, height // r, width // r))
