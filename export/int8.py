"""Weights of float layers as 8-bit integers, each output channel with a step of its own."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fsg.export.graph import BinaryGraph, Conv, Dense, Floats, Node
from fsg.export.passes import fold_affine, rewrite

MOST = 127
LEAST = 256
"""How many weights a layer must have to be worth the steps and the operator that multiplies with them."""
_EXACT = np.uint32(0xFFFFFF00)
"""Bits of a step that may be set: with 16 of its mantissa, the product with an integer of 7 bits is not rounded."""


def int8_weights(graph: BinaryGraph) -> BinaryGraph:
    """Rounds the weights of float layers, as they are with batch norms folded in: `in_int8` then finds them."""

    def rule(node: Node) -> list[Node]:
        if isinstance(node, (Conv, Dense)) and node.weight.size >= LEAST:
            return [replace(node, weight=rounded(node.weight))]
        return [node]

    return rewrite(fold_affine(graph), rule)


def in_int8(weight: Floats) -> tuple[NDArray[np.int8], Floats] | None:
    """Integers like `weight` [O, ...] and steps [O] whose products are exactly `weight`; None where there are none."""
    if weight.size < LEAST:
        return None
    rows = weight.reshape(len(weight), -1)
    most = np.abs(rows).max(1)
    steps = np.where(most > 0, most / np.float32(MOST), np.float32(1)).astype(np.float32)
    if (steps.view(np.uint32) & ~_EXACT).any():
        return None
    whole = np.rint(rows / steps[:, None])
    if not np.array_equal(whole * steps[:, None], rows):
        return None
    return whole.astype(np.int8).reshape(weight.shape), steps


def rounded(weight: Floats) -> Floats:
    """The nearest weights [O, ...] that `in_int8` finds."""
    rows = weight.reshape(len(weight), -1)
    steps = np.abs(rows).max(1).astype(np.float32) / np.float32(MOST)
    steps = ((steps.view(np.uint32) + np.uint32(0x80)) & _EXACT).view(np.float32)
    steps[steps == 0] = 1
    whole = np.clip(np.rint(rows / steps[:, None]), -MOST, MOST).astype(np.float32)
    return (whole * steps[:, None]).reshape(weight.shape)
