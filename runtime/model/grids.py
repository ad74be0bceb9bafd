"""The grids of 8-bit integers that float layers work on, chosen after training or learned by it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 256
"""How many weights a layer must have to be worth the steps and the operator that multiplies with them."""
MOST = 127
"""Weights are integers from -127 to 127 times a step of each output channel."""
MOST_TERMS = 1 << 15
"""How many products a sum may have: 255 * 127 * 2^15, and a bias below 2^29, are below 2^31."""
SHORT = np.uint32(0xFFFF0000)
"""Bits of an activation's step: the product with a weight's step is not rounded, so all runtimes have the same."""
KEPT = 1 << 20
"""How many of a value's numbers its grid is chosen by."""


def sums_fit(shape: Sequence[int]) -> bool:
    """Whether no sum of a layer on integers, with weights [O, ...] of this shape, overflows."""
    return math.prod(shape[1:]) <= MOST_TERMS


def is_worth_rounding(shape: Sequence[int], groups: int) -> bool:
    """Whether what a layer with weights [O, I/groups, ...] reads is rounded for it.

    Others, depthwise ones and those of few weights, compute on integers only where there are some.
    """
    is_depthwise = groups > 1 and shape[1] == 1
    return math.prod(shape) >= LEAST and not is_depthwise


class Grid(NamedTuple):
    """The numbers (q - zero) * step, q from -128 to 127; where integers are uint8, zero is greater by 128."""

    step: float
    zero: int


def to_integers(values: NDArray[np.float32], grid: Grid, kind: Any) -> NDArray[Any]:
    """The places q on a grid, int8 or uint8, that are nearest to numbers."""
    whole = np.rint(values * (1 / np.float32(grid.step))) + grid.zero
    return np.clip(whole, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)


def from_integers(places: NDArray[Any], grid: Grid) -> NDArray[np.float32]:
    """The numbers at places on a grid."""
    return (places.astype(np.float32) - np.float32(grid.zero)) * np.float32(grid.step)


def grid_of(values: NDArray[np.float32]) -> Grid:
    """The grid, of those up to a share of the least and the greatest, on which values are moved least, squared.

    Its step has 8 bits of mantissa, and 0 is on it.
    """
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if low == high:
        return Grid(1.0, 0)

    def grid(share: float) -> Grid:
        step: Any = np.float32((high - low) * share / 255)
        step = ((step.view(np.uint32) + ~SHORT) & SHORT).view(np.float32)
        return Grid(float(step), int(np.clip(np.rint(-128 - low * share / step), -128, 127)))

    def error(grid: Grid) -> float:
        whole = np.clip(np.rint(values / np.float32(grid.step)), -128 - grid.zero, 127 - grid.zero)
        return float(np.square(whole * np.float32(grid.step) - values, dtype=np.float64).mean())

    return min(map(grid, np.linspace(1, 0.3, 29)), key=error)
