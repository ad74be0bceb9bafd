"""Operators as a .tflite file holds them: what the writer's steps hand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fsg.export.graph import Sides

ACTIVATIONS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
"""Operators that others can do on their way out, as `fused_activation_function` numbers them."""

FLOAT32 = np.dtype(np.float32)

SAME, VALID = 0, 1  # as TFLite and LCE number them


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value, images [N, H, W, C]; with `data` a constant. Tensors are told apart by identity.

    Integers q of int8 mean numbers: (q - zero) * step, where `steps` has one for all, or for each place on `axis`.
    """

    shape: tuple[int, ...]
    kind: np.dtype[Any] = FLOAT32
    data: np.ndarray | None = None
    steps: np.ndarray | None = None
    axis: int = 0
    zero: int = 0


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator: `code` is its name in TFLite's schema, or LCE's; options are named as there."""

    code: str
    inputs: tuple[Tensor | None, ...]
    output: Tensor
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Operators in the order in which they run; `names` are those of the nodes that tensors are the values of."""

    operators: tuple[Operator, ...]
    source: Tensor
    result: Tensor
    names: dict[Tensor, str] = field(default_factory=dict)

    def users(self) -> dict[Tensor, list[Operator]]:
        """The operators that read each tensor."""
        found: dict[Tensor, list[Operator]] = {}
        for operator in self.operators:
            for tensor in operator.inputs:
                if tensor is not None:
                    found.setdefault(tensor, []).append(operator)
        return found

    def producers(self) -> dict[Tensor, Operator]:
        """The operator that computes each tensor."""
        return {operator.output: operator for operator in self.operators}


def without_unused(program: Program) -> Program:
    """Drops operators whose results nothing reads."""
    used, kept = {program.result}, []
    for operator in reversed(program.operators):
        if operator.output in used:
            kept.append(operator)
            used.update(tensor for tensor in operator.inputs if tensor is not None)
    return replace(program, operators=tuple(reversed(kept)))


def place(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    before: Sequence[int],
    out: Sequence[int],
) -> tuple[int, Sides]:
    """SAME where TensorFlow's padding is that of `out` windows from `before` on, else VALID; and the sides to add."""
    is_same, sides = True, []
    for size, taps, step, spread, first, count in zip(sizes, kernel, stride, dilation, before, out, strict=True):
        missing = max((count - 1) * step + spread * (taps - 1) + 1 - size, 0)
        is_same &= count == -(-size // step) and missing // 2 == first
        sides += [first, max(missing - first, 0)]
    padding = SAME if is_same and any(sides) else VALID
    return padding, (sides[0], sides[1], sides[2], sides[3])
