"""Values in whatever order of axes they were computed, and the operators that compute them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.formats.tflite.lowered import Operator, Program, Tensor
from fsg.export.int8 import in_int8
from fsg.runtime.model.grids import Grid

Order = tuple[int, ...]
IMAGE: Order = (0, 2, 3, 1)
"""[N, H, W, C] of PyTorch's [N, C, H, W]."""


@dataclass(frozen=True, eq=False)
class Value:
    """A node's value: axis i of the tensor is axis order[i] of the node's, in PyTorch's order."""

    tensor: Tensor
    order: Order

    @property
    def shape(self) -> tuple[int, ...]:
        """In PyTorch's order."""
        return tuple(self.tensor.shape[self.order.index(axis)] for axis in range(len(self.order)))


Layer = g.Conv | g.Dense | g.Int8Conv | g.Int8Dense


def result_grid(node: g.Node) -> Grid | None:
    """The grid that a node's value is on."""
    return Grid(node.step, node.zero) if isinstance(node, (g.Int8Layer, g.Quantize)) else None


def on_grid(tensor: Tensor, grid: Grid) -> Tensor:
    """The same in int8."""
    return replace(tensor, kind=np.dtype(np.int8), steps=np.array([grid.step], np.float32), zero=grid.zero)


def same_grid(x: Tensor) -> Grid | None:
    """The grid that an operator which only moves values has for its result."""
    return None if x.steps is None else Grid(float(x.steps[0]), x.zero)


class Emitter:
    """Collects operators. The same operator on the same inputs is there once."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self._known: dict[Any, Tensor] = {}
        self._constants: dict[Any, Tensor] = {}

    def emit(
        self,
        code: str,
        inputs: list[Tensor | None],
        shape: tuple[int, ...],
        kind: Any = np.float32,
        *,
        grid: Grid | None = None,
        **options: Any,
    ) -> Tensor:
        """The output of an operator, of int8 where it is on a grid."""
        key = (code, tuple(inputs), shape, np.dtype(kind), grid, tuple(sorted(options.items())))
        if key not in self._known:
            tensor = Tensor(tuple(int(n) for n in shape), np.dtype(kind))
            self._known[key] = on_grid(tensor, grid) if grid else tensor
            self.operators.append(Operator(code, tuple(inputs), self._known[key], options))
        return self._known[key]

    def constant(self, values: Any, kind: Any = np.float32) -> Tensor:
        """A constant tensor; small ones of equal content are one."""
        data = np.ascontiguousarray(values, kind).reshape(np.shape(values))
        if data.size > 4096:
            return Tensor(data.shape, data.dtype, data)
        return self._constants.setdefault(
            (data.shape, data.dtype, data.tobytes()), Tensor(data.shape, data.dtype, data)
        )

    def integers(self, *values: Any) -> Tensor:
        """An int32 constant [len(values), ...]."""
        return self.constant(np.array(values, np.int32), np.int32)

    def like(self, code: str, x: Tensor, *others: Tensor | float, **options: Any) -> Tensor:
        """The output, shaped as x, of an operator on x and others, numbers among them."""
        rest = [other if isinstance(other, Tensor) else self.constant(np.float32(other)) for other in others]
        return self.emit(code, [x, *rest], x.shape, **options)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The same values in another shape."""
        if x.shape == shape:
            return x
        if x.data is not None:
            return self.constant(x.data.reshape(shape), x.kind)
        return self.emit("RESHAPE", [x, self.integers(*shape)], shape, x.kind, grid=same_grid(x), newShape=shape)

    def transpose(self, x: Tensor, permutation: Order) -> Tensor:
        """Axis i of the result is axis permutation[i] of x."""
        shape = tuple(x.shape[axis] for axis in permutation)
        if x.data is not None:
            return self.constant(x.data.transpose(permutation), x.kind)
        if [axis for axis in permutation if x.shape[axis] > 1] == [a for a in range(len(shape)) if x.shape[a] > 1]:
            return self.reshape(x, shape)
        return self.emit("TRANSPOSE", [x, self.integers(*permutation)], shape, x.kind, grid=same_grid(x))

    def ordered(self, value: Value, order: Order) -> Tensor:
        """A value's tensor with its axes in this order."""
        if value.order == order:
            return value.tensor
        return self.transpose(value.tensor, tuple(value.order.index(axis) for axis in order))

    def pad(self, x: Tensor, before: list[int], after: list[int], number: float) -> Tensor:
        """x with so many of a number in front of and behind each axis."""
        if not any(before) and not any(after):
            return x
        shape = tuple(a + n + b for a, n, b in zip(before, x.shape, after, strict=True))
        amounts = self.integers(*zip(before, after, strict=True))
        grid = same_grid(x)
        if number == 0:
            return self.emit("PAD", [x, amounts], shape, x.kind, grid=grid)
        value = self.constant(np.float32(number))
        if grid:
            away = np.sign(number) * np.ceil(abs(number) / grid.step)  # from 0: its sign stays
            whole = np.clip(away + grid.zero, -128, 127)
            value = on_grid(Tensor((), data=whole.astype(np.int8)), grid)
        return self.emit("PADV2", [x, amounts, value], shape, x.kind, grid=grid)

    def weights(self, weight: np.ndarray, order: Order) -> Tensor:
        """A layer's weights [O, ...] with their axes in this order; stored as int8 where they are exactly that."""
        found = in_int8(weight)
        if found is None:
            return self.constant(weight.transpose(order))
        data = np.ascontiguousarray(found[0].transpose(order))
        stored = Tensor(data.shape, data.dtype, data, found[1], order.index(0))
        return self.emit("DEQUANTIZE", [stored], data.shape)

    def parameters(self, node: Layer, weight: np.ndarray, order: Order) -> list[Tensor]:
        """A layer's weights [O, ...] with their axes in this order, and its bias."""
        if not isinstance(node, g.Int8Layer):
            return [self.weights(weight, order), self.constant(node.bias)]
        whole = np.ascontiguousarray(weight.transpose(order))
        steps = (np.float32(node.source_step) * node.weight_step).astype(np.float32)
        return [
            Tensor(whole.shape, whole.dtype, whole, node.weight_step, order.index(0)),
            Tensor(node.bias.shape, node.bias.dtype, node.bias, steps),
        ]

    def floats(self, x: Value) -> Value:
        """A value as float32."""
        if x.tensor.steps is None:
            return x
        return Value(self.emit("DEQUANTIZE", [x.tensor], x.tensor.shape), x.order)

    def pad_image(self, x: Tensor, sides: g.Sides, number: float) -> Tensor:
        """x [N, H, W, C] with rows above and below, columns left and right."""
        return self.pad(x, [0, sides[0], sides[2], 0], [0, sides[1], sides[3], 0], number)

    def program(self, source: Tensor, result: Tensor, values: dict[str, Value]) -> Program:
        """All operators so far; `values` are those of nodes by name."""
        names = {
            value.tensor: name
            for name, value in values.items()
            if value.order == (IMAGE if len(value.order) == 4 else tuple(range(len(value.order))))
        }
        return Program(tuple(self.operators), source, result, names)
