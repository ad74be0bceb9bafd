"""Rules for norms that take the statistics of each image: a few operators each, none of which vanishes."""

from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.reading.arithmetic import affine, clamp, elementwise, reduce, square, two
from fsg.export.reading.builder import Builder, Value
from fsg.export.reading.rules import reads
from fsg.export.reading.shapes import axis_of, reshaped


def standardised(b: Builder, x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """x less its mean over axes, divided by the standard deviation."""
    centred = two(b, x, reduce(b, x, axes, True, "mean", "mean"), "sub", "centred")
    variance = reduce(b, square(b, centred, "square"), axes, True, "mean", "variance")
    deviation = elementwise(b, affine(b, variance, 1, eps, "more"), "Sqrt", part="deviation")
    return two(b, centred, deviation, "div", "standard")


def _scaled(b: Builder, x: Value, weight: Any, bias: Any) -> Value:
    """x with a factor and a summand, or neither."""
    x = x if weight is None else two(b, x, weight, "mul", "scaled")
    return x if bias is None else two(b, x, bias, "add")


def _column(values: Any, x: Value) -> Any:
    """Values [C] for the channels of x [N, C, ...]."""
    return None if values is None else np.reshape(values, (1, -1, *[1] * (len(x.shape) - 2)))


@reads(
    layers="LayerNorm",
    attributes="normalized_shape weight bias eps",
    functions="layer_norm",
    arguments="input normalized_shape weight bias eps",
    becomes="means, a root and a quotient of each image",
)
def layer_norm(
    b: Builder, x: Value, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value:
    rank = len(x.shape)
    return _scaled(b, standardised(b, x, tuple(range(rank - len(normalized_shape), rank)), eps), weight, bias)


@reads(
    layers="GroupNorm",
    attributes="num_groups weight bias eps",
    functions="group_norm",
    arguments="input num_groups weight bias eps",
    becomes="means, a root and a quotient of each image",
)
def group_norm(b: Builder, x: Value, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Value:
    if num_groups == 1 or num_groups == x.shape[1]:
        axes = tuple(range(1 if num_groups == 1 else 2, len(x.shape)))
        return _scaled(b, standardised(b, x, axes, eps), _column(weight, x), _column(bias, x))
    groups = reshaped(b, x, (1, num_groups, int(np.prod(x.shape[1:])) // num_groups), "groups")
    whole = reshaped(b, standardised(b, groups, (2,), eps), x.shape, "whole")
    return _scaled(b, whole, _column(weight, x), _column(bias, x))


@reads(
    layers="InstanceNorm2d",
    attributes="running_mean running_var weight bias eps",
    functions="instance_norm",
    arguments="input running_mean running_var weight bias use_input_stats momentum eps",
    becomes="means, a root and a quotient of each image",
)
def instance_norm(
    b: Builder,
    x: Value,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    if running_mean is not None:
        raise b.refuse("with running statistics it is a batch norm; use BatchNorm2d")
    return group_norm(b, x, x.shape[1], weight, bias, eps)


@reads(functions="normalize", arguments="input p dim eps", becomes="a root and a quotient of each image")
def normalize(b: Builder, x: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Value:
    if p != 2 or out is not None:
        raise b.refuse("only the norm of p = 2 is exported")
    length = elementwise(b, reduce(b, square(b, x, "square"), dim, True, "sum", "sum"), "Sqrt", part="length")
    return two(b, x, clamp(b, length, min=eps), "div")


@reads(layers="GLU", attributes="dim", functions="glu", arguments="input dim", becomes="one half of it gates the other")
def glu(b: Builder, x: Value, dim: int = -1) -> Value:
    axis = axis_of(b, x, dim)
    size = x.shape[axis] // 2
    parts = [tuple(range(size)), tuple(range(size, 2 * size))]
    shape = tuple(size if i == axis else n for i, n in enumerate(x.shape))
    values, gate = (b.add(g.Take, x, part="half", axis=axis, index=part, shape=shape) for part in parts)
    return two(b, values, elementwise(b, gate, "Sigmoid", part="gate"), "mul")
