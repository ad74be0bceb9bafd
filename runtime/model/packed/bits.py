"""Signs as bits in 64-bit words, and the sums of their products by xor and popcount: exact integers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg.runtime.model.meaning import Floats

Words = NDArray[np.uint64]
Counts = NDArray[np.uint8]

WORD = 64
AT_ONCE = 1 << 17
"""Products of words that are counted together: what fits into a cache."""

_TABLE = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def count_by_table(words: Words) -> Counts:
    """How many bits of every word are set."""
    pairs = np.ascontiguousarray(words)[..., None].view(np.uint8)
    return _TABLE[pairs].sum(-1, dtype=np.uint8)


count: Callable[[Words], Counts] = getattr(np, "bitwise_count", count_by_table)  # NumPy 2


def pack(negative: NDArray[np.bool_]) -> Words:
    """Truth values [..., n] as words [..., ceil(n / 64)]: value i is bit i % 64 of word i // 64, the rest are 0."""
    packed = np.packbits(negative, axis=-1, bitorder="little")
    missing = -packed.shape[-1] % 8
    packed = np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, missing)])
    return np.ascontiguousarray(packed).view("<u8").astype(np.uint64, copy=False)


def unpack(words: NDArray[Any], size: int) -> NDArray[np.bool_]:
    """The first `size` truth values of little-endian words [..., n] of any width, in the order of `pack`."""
    octets = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=size, bitorder="little").view(np.bool_)


class Bits:
    """Signs [N, C, ...] whose `axis` is packed, and stands last: words [N, ..., ceil(size / 64)], 1 for -1."""

    def __init__(self, negative: NDArray[np.bool_], axis: int) -> None:
        self.axis, self.size = axis % negative.ndim, negative.shape[axis]
        self.words = pack(np.moveaxis(negative, axis, -1))

    def negative(self) -> NDArray[np.bool_]:
        """Which signs are -1, in the order that they had before they were packed."""
        return np.moveaxis(unpack(self.words, self.size), -1, self.axis)

    def along(self, axis: int) -> "Bits":
        """The same signs, packed along an axis."""
        return self if axis % self.words.ndim == self.axis else Bits(self.negative(), axis)

    def signs(self) -> Floats:
        """-1 and +1."""
        return np.where(self.negative(), np.float32(-1), np.float32(1))


def dense(x: Bits, weight: Words) -> NDArray[np.int32]:
    """The sums [N, ..., O] of signs [N, ..., size], along their last axis, times the rows of weight [O, words]."""
    x = x.along(-1)
    rows = x.words.reshape(-1, x.words.shape[-1])
    differing = np.zeros((len(rows), len(weight)), np.int32)
    for part in _parts(len(rows), len(weight)):
        for word in range(rows.shape[1]):
            differing[part] += count(rows[part, word, None] ^ weight[:, word])
    return (x.size - 2 * differing).reshape(*x.words.shape[:-1], len(weight))


def convolve(x: Bits, weight: Words, node: Any) -> NDArray[np.int32]:
    """The sums [N, O, H, W] of a convolution of signs, with weights [groups, O / groups, KH, KW, words].

    `node` has stride, padding, dilation and the shape of the result; padding_value is -1, 0 or 1.
    """
    groups, outputs, *kernel, _ = weight.shape
    height, width = node.shape[2:]
    words, channels = _of_groups(x.along(1), groups), x.size // groups
    inside = np.ones(words.shape[1:3], np.bool_)
    (rows, columns), border = node.padding, np.zeros(words.shape[-1], np.uint64)
    if node.padding_value < 0:
        border = pack(np.ones(channels, np.bool_))
    if rows or columns:
        image, inside = (
            words,
            np.pad(inside, ((rows, rows), (columns, columns)), constant_values=bool(node.padding_value)),
        )
        words = np.broadcast_to(border, (len(image), *inside.shape, groups, len(border))).copy()
        words[:, rows : rows + image.shape[1], columns : columns + image.shape[2]] = image
    differing = np.zeros((len(words), groups, outputs, height * width), np.int32)
    there = np.zeros(height * width, np.int32)  # inputs of a sum
    for row, column in np.ndindex(*kernel):
        window = tuple(
            slice(tap * dilation, tap * dilation + (size - 1) * stride + 1, stride)
            for tap, dilation, size, stride in zip(
                (row, column), node.dilation, (height, width), node.stride, strict=True
            )
        )
        valid = inside[window].reshape(-1)
        there += channels * valid.astype(np.int32)
        taps = words[:, *window].reshape(len(words), height * width, groups, -1).transpose(3, 0, 2, 1)
        for part in _parts(len(words), differing[:1].size):
            for tap, signs in zip(taps, np.moveaxis(weight[:, :, row, column], -1, 0), strict=True):
                unlike = count(np.ascontiguousarray(tap[part])[:, :, None] ^ signs[None, :, :, None])
                differing[part] += unlike if valid.all() else unlike * valid
    return (there - 2 * differing).reshape(len(words), groups * outputs, height, width)


def _of_groups(x: Bits, groups: int) -> Words:
    """The words [N, H, W, groups, words] of signs whose channels are packed group by group."""
    if groups == 1:
        return x.words[:, :, :, None]
    negative = unpack(x.words, x.size)
    return pack(negative.reshape(*negative.shape[:3], groups, -1))


def _parts(count: int, products: int) -> Iterator[slice]:
    """Slices of `count` rows, each of so many products, that fit AT_ONCE."""
    step = max(AT_ONCE // products, 1)
    return (slice(start, start + step) for start in range(0, count, step))
