"""Rules for what computes with values one by one, compares them, or sums them up."""

from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.elementwise import OPERATORS
from fsg.export.reading.builder import Builder, Value
from fsg.export.reading.rules import ENTRIES, Entry, reads
from fsg.export.reading.shapes import axis_of, numbers, one_image
from fsg.runtime.model.meaning import ARITHMETIC


def elementwise(b: Builder, x: Value, operator: str, part: str = "", **settings: Any) -> Value:
    """A row of `elementwise.OPERATORS`, its settings as given or as that layer has them by default."""
    row = OPERATORS[operator]
    values = {name: _number(settings.get(name, default)) for name, default in row.settings.items()}
    return b.add(g.Elementwise, x, part=part, operator=operator, settings=values, shape=x.shape)


def _number(value: Any) -> float:
    """A setting; GELU's names two ways."""
    return {"none": 0.0, "tanh": 1.0}[value] if isinstance(value, str) else float(value)


def _row_rule(operator: str) -> Any:
    def rule(b: Builder, x: Value, inplace: bool = False, **settings: Any) -> Value:
        return elementwise(b, x, operator, **settings)

    return rule


for _row in OPERATORS.values():
    ENTRIES.append(
        Entry(
            _row_rule(_row.layer),
            (_row.layer,),
            tuple(_row.settings),
            _row.functions,
            ("input", *_row.settings, "inplace"),
            f"{_row.layer} of every value",
        )
    )


# --- two operands -----------------------------------------------------------------------------------------
def affine(b: Builder, x: Value, scale: Any, bias: Any, part: str = "") -> Value:
    """scale * x + bias, each one number or one for each channel."""
    if len(x.shape) == 1:
        two_axes = b.add(g.Reshape, x, part="column", shape=(1, 1))
        return b.add(g.Reshape, affine(b, two_axes, scale, bias, "scaled"), part=part, shape=(1,))
    channels = x.shape[1]
    settings = {"scale": np.array(np.broadcast_to(np.float32(scale), channels))}
    settings |= {"bias": np.array(np.broadcast_to(np.float32(bias), channels))}
    return b.add(g.Affine, x, part=part, shape=x.shape, **settings)


def of_channels(x: Value, constant: np.ndarray) -> np.ndarray | None:
    """A constant as one number or one for each channel [C], if that is what it is to x."""
    if constant.size == 1:
        return constant.reshape(())
    lengths = [1] * (len(x.shape) - constant.ndim) + list(constant.shape)
    if len(lengths) == len(x.shape) >= 2 and all(n == 1 for i, n in enumerate(lengths) if i != 1):
        return constant.ravel()
    return None


def unrepeated(constant: np.ndarray) -> np.ndarray:
    """A constant with axes of length 1 where it is the same all along, as after expand_as."""
    for axis in range(constant.ndim):
        first = constant.take([0], axis)
        constant = first if (constant == first).all() else constant
    return constant


NOTHING = (("add", 0.0), ("sub", 0.0), ("mul", 1.0), ("div", 1.0))
"""What changes no value."""


def two(b: Builder, x: Any, y: Any, operator: str, part: str = "") -> Any:
    """x operator y, of which one at least is a value."""
    if not (isinstance(x, Value) or isinstance(y, Value)):
        return ARITHMETIC[operator](x, y)
    if isinstance(x, Value) and isinstance(y, Value):
        if operator == "add":  # b + (a - b), by which people let gradients pass: a
            for total, other in ((x, y), (y, x)):
                node = b.kinds[total.node]
                if isinstance(node, g.Arithmetic) and node.operator == "sub" and node.inputs[1] == other.node:
                    return Value(node.inputs[0], b.kinds[node.inputs[0]].shape)
        return b.add(g.Arithmetic, x, y, part=part, operator=operator, shape=np.broadcast_shapes(x.shape, y.shape))
    value, constant = (x, one_image(y)) if isinstance(x, Value) else (y, one_image(x))
    grows = np.broadcast_shapes(value.shape, constant.shape) != value.shape
    constant = constant if grows else unrepeated(constant)
    keeps = constant.size == 1 and constant.ndim <= len(value.shape) and (operator, float(constant.flat[0])) in NOTHING
    if keeps and (value is x or operator in ("add", "mul")):
        return value
    known = of_channels(value, constant)
    if known is not None and not grows and len(value.shape) > 1:
        with np.errstate(divide="ignore"):
            if operator == "add":
                return affine(b, value, 1, known, part)
            if operator == "sub":
                return affine(b, value, 1, -known, part) if value is x else affine(b, value, -1, known, part)
            if operator == "mul":
                return affine(b, value, known, 0, part)
            if operator == "div" and value is x:
                return affine(b, value, 1 / known.astype(np.float64), 0, part)
    constant = constant.reshape([1] * (len(value.shape) - constant.ndim) + list(constant.shape))
    other = b.constant(constant)
    pair = (value, other) if isinstance(x, Value) else (other, value)
    shape = np.broadcast_shapes(value.shape, constant.shape)
    return b.add(g.Arithmetic, *pair, part=part, operator=operator, shape=shape)


@reads(functions="add add_ iadd radd", arguments="input other alpha", becomes="a sum")
def add(b: Builder, x: Any, other: Any, alpha: float = 1) -> Any:
    return two(b, x, other if alpha == 1 else two(b, other, alpha, "mul", "part"), "add")


@reads(functions="sub sub_ isub subtract", arguments="input other alpha", becomes="a difference")
def sub(b: Builder, x: Any, other: Any, alpha: float = 1) -> Any:
    return two(b, x, other if alpha == 1 else two(b, other, alpha, "mul", "part"), "sub")


@reads(functions="neg neg_ negative", arguments="input", becomes="a factor of -1")
def negative(b: Builder, x: Value) -> Value:
    return affine(b, x, -1, 0)


@reads(functions="rsub", arguments="input other", becomes="a difference")
def rsub(b: Builder, x: Any, other: Any) -> Any:
    return two(b, other, x, "sub")


@reads(functions="mul mul_ imul rmul multiply", arguments="input other", becomes="a product, value by value")
def mul(b: Builder, x: Any, other: Any) -> Any:
    return two(b, x, other, "mul")


@reads(functions="truediv div div_ itruediv divide true_divide", arguments="input other", becomes="a quotient")
def div(b: Builder, x: Any, other: Any, rounding_mode: Any = None) -> Any:
    if rounding_mode:
        raise b.refuse("only division without rounding is exported")
    return two(b, x, other, "div")


@reads(functions="rtruediv rdiv", arguments="input other", becomes="a quotient")
def rdiv(b: Builder, x: Any, other: Any) -> Any:
    return two(b, other, x, "div")


@reads(functions="maximum", arguments="input other", becomes="the larger value")
def larger(b: Builder, x: Any, other: Any) -> Any:
    return two(b, x, other, "max")


@reads(functions="minimum", arguments="input other", becomes="the smaller value")
def smaller(b: Builder, x: Any, other: Any) -> Any:
    return two(b, x, other, "min")


@reads(functions="reciprocal", arguments="input", becomes="a quotient")
def reciprocal(b: Builder, x: Value) -> Any:
    return two(b, 1.0, x, "div")


@reads(functions="square square_", arguments="input", becomes="a product")
def square(b: Builder, x: Value, part: str = "") -> Value:
    return b.add(g.Arithmetic, x, x, part=part, operator="mul", shape=x.shape)


@reads(functions="rsqrt rsqrt_", arguments="input", becomes="a root and a quotient")
def rsqrt(b: Builder, x: Value) -> Value:
    return two(b, 1.0, elementwise(b, x, "Sqrt", part="root"), "div")


@reads(functions="pow pow_ ipow float_power", arguments="input exponent", becomes="products or a root")
def power(b: Builder, x: Any, exponent: Any) -> Any:
    if isinstance(exponent, Value) or np.size(exponent) != 1 or not isinstance(x, Value):
        raise b.refuse("only powers with one fixed exponent are exported")
    value = float(np.asarray(exponent).reshape(()))
    if value == 0.5:
        return elementwise(b, x, "Sqrt")
    if value == -0.5:
        return rsqrt(b, x)
    if value != int(value) or not 1 <= abs(value) <= 8:
        raise b.refuse(f"the exponent {value:g} is not exported; only 0.5, -0.5 and whole numbers up to 8 are")
    result = x
    for _ in range(abs(int(value)) - 1):
        result = b.add(g.Arithmetic, result, x, part="product", operator="mul", shape=x.shape)
    return two(b, 1.0, result, "div") if value < 0 else result


@reads(layers="PReLU", attributes="weight", functions="prelu", arguments="input weight", becomes="PReLU of every value")
def prelu(b: Builder, x: Value, weight: Any) -> Value:
    if isinstance(weight, Value):
        raise b.refuse("its slope depends on the image; only fixed ones are exported")
    slope = np.array(np.broadcast_to(np.float32(np.ravel(weight)), x.shape[1]))
    return b.add(g.PReLU, x, slope=slope, shape=x.shape)


@reads(
    functions="clamp clamp_ clip clip_ clamp_min clamp_min_",
    arguments="input min max",
    becomes="values within bounds",
)
def clamp(b: Builder, x: Value, min: Any = None, max: Any = None) -> Any:
    if isinstance(min, Value) or isinstance(max, Value) or np.size(min) > 1 or np.size(max) > 1:
        x = x if min is None else two(b, x, min, "max", "low")
        return x if max is None else two(b, x, max, "min", "high")
    if min == 0 and max is None:
        return elementwise(b, x, "ReLU")
    if min == 0 and max == 6:
        return elementwise(b, x, "ReLU6")
    low, high = (-np.inf if min is None else min), (np.inf if max is None else max)
    return elementwise(b, x, "Hardtanh", min_val=low, max_val=high)


@reads(functions="clamp_max clamp_max_", arguments="input max", becomes="values within a bound")
def clamp_max(b: Builder, x: Value, max: Any) -> Any:
    return clamp(b, x, max=max)


# --- functions made of others -----------------------------------------------------------------------------
@reads(layers="SiLU", functions="silu", arguments="input inplace", becomes="x * sigmoid(x)")
def silu(b: Builder, x: Value, inplace: bool = False) -> Value:
    return two(b, x, elementwise(b, x, "Sigmoid", part="gate"), "mul")


@reads(
    layers="Softplus",
    attributes="beta threshold",
    functions="softplus",
    arguments="input beta threshold",
    becomes="max(x, 0) + log(1 + exp(-|x|))",
)
def softplus(b: Builder, x: Value, beta: float = 1.0, threshold: float = 20.0, part: str = "") -> Value:
    scaled = x if beta == 1 else affine(b, x, beta, 0, "scaled")
    distance = affine(b, elementwise(b, scaled, "Abs", part="size"), -1, 0, "minus")
    rest = elementwise(b, affine(b, elementwise(b, distance, "Exp", part="exp"), 1, 1, "more"), "Log", part="log")
    total = two(b, elementwise(b, scaled, "ReLU", part="positive"), rest, "add", part if beta == 1 else "sum")
    return total if beta == 1 else affine(b, total, 1 / beta, 0, part)


@reads(layers="LogSigmoid", functions="logsigmoid", arguments="input", becomes="-softplus(-x)")
def logsigmoid(b: Builder, x: Value) -> Value:
    return affine(b, softplus(b, affine(b, x, -1, 0, "minus"), part="softplus"), -1, 0)


@reads(layers="Mish", functions="mish", arguments="input inplace", becomes="x * tanh(softplus(x))")
def mish(b: Builder, x: Value, inplace: bool = False) -> Value:
    return two(b, x, elementwise(b, softplus(b, x, part="softplus"), "Tanh", part="gate"), "mul")


@reads(layers="SELU", functions="selu selu_", arguments="input inplace", becomes="a scaled ELU")
def selu(b: Builder, x: Value, inplace: bool = False) -> Value:
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return affine(b, elementwise(b, x, "ELU", part="elu", alpha=alpha), scale, 0)


@reads(layers="Softsign", functions="softsign", arguments="input", becomes="x / (1 + |x|)")
def softsign(b: Builder, x: Value) -> Value:
    return two(b, x, affine(b, elementwise(b, x, "Abs", part="size"), 1, 1, "more"), "div")


# --- comparisons ------------------------------------------------------------------------------------------
def compare(b: Builder, x: Any, other: Any, kind: str) -> Value:
    """1 where it holds, else 0: as 1/2 sign(difference) + 1/2, exact since sign(0) is +1."""
    turned = kind in ("gt", "le")
    difference = two(b, other, x, "sub", "difference") if turned else two(b, x, other, "sub", "difference")
    factor = 0.5 if kind in ("ge", "le") else -0.5
    return affine(b, sign(b, difference, "sign"), factor, 0.5)


for _name in ("ge", "gt", "le", "lt"):
    _names = {"ge": "ge greater_equal", "gt": "gt greater", "le": "le less_equal", "lt": "lt less"}[_name]
    ENTRIES.append(
        Entry(
            lambda b, x, other, kind=_name: compare(b, x, other, kind),
            (),
            (),
            tuple(_names.split()),
            ("input", "other"),
            "a comparison: 1 or 0",
        )
    )


@reads(functions="where", arguments="condition input other", becomes="one or the other value")
def where(b: Builder, condition: Any, input: Any, other: Any) -> Any:
    x = input
    if not isinstance(condition, Value):
        mask = np.asarray(condition, bool).astype(np.float32)
        return two(b, two(b, x, mask, "mul", "then"), two(b, other, 1 - mask, "mul", "else"), "add")
    yes, no = (None if isinstance(value, Value) else np.unique(np.float32(value)) for value in (x, other))
    if yes is not None and no is not None and yes.size == no.size == 1:
        return affine(b, condition, yes - no, no)
    opposite = affine(b, condition, -1, 1, "not")
    return two(b, two(b, x, condition, "mul", "then"), two(b, other, opposite, "mul", "else"), "add")


# --- sums over axes ---------------------------------------------------------------------------------------
def reduce(b: Builder, x: Value, dim: Any, keepdim: bool, operator: str, part: str = "") -> Value:
    if dim is None or np.size(dim) == 0:
        raise b.refuse("it takes all images of a batch together; name the axes, such as (2, 3)")
    axes = tuple(sorted(axis_of(b, x, axis) for axis in numbers((dim,) if np.ndim(dim) == 0 else tuple(dim))))
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdim or i not in axes)
    return b.add(g.Reduce, x, part=part, operator=operator, axes=axes, shape=shape)


@reads(functions="mean", arguments="input dim keepdim", becomes="a mean over axes")
def mean(b: Builder, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    return reduce(b, x, dim, keepdim, "mean")


@reads(functions="sum", arguments="input dim keepdim", becomes="a sum over axes")
def total(b: Builder, x: Value, dim: Any = None, keepdim: bool = False, **_: Any) -> Value:
    return reduce(b, x, dim, keepdim, "sum")


@reads(functions="amax", arguments="input dim keepdim", becomes="a maximum over axes")
def amax(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return reduce(b, x, dim, keepdim, "max")


@reads(functions="amin", arguments="input dim keepdim", becomes="a minimum over axes")
def amin(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return affine(b, reduce(b, affine(b, x, -1, 0, "minus"), dim, keepdim, "max", "largest"), -1, 0)


@reads(functions="min", arguments="input dim keepdim", becomes="a minimum over axes, or the smaller value")
def least(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, Value) or np.ndim(dim):
        return two(b, x, dim, "min")
    return amin(b, x, dim, keepdim), None


@reads(functions="max", arguments="input dim keepdim", becomes="a maximum over axes, or the larger value")
def maximum(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, Value) or np.ndim(dim):
        return two(b, x, dim, "max")
    return reduce(b, x, dim, keepdim, "max"), None


@reads(
    layers="Softmax Softmax2d",
    attributes="dim",
    functions="softmax",
    arguments="input dim",
    becomes="a softmax",
)
def softmax(b: Builder, x: Value, dim: Any = None, log: bool = False, **_: Any) -> Value:
    axis = axis_of(b, x, (1 if len(x.shape) in (2, 4) else 0) if dim is None else dim)
    return b.add(g.Softmax, x, axis=axis, log=log, shape=x.shape)


@reads(
    layers="LogSoftmax",
    attributes="dim",
    functions="log_softmax",
    arguments="input dim",
    becomes="the logarithm of a softmax",
)
def log_softmax(b: Builder, x: Value, dim: Any = None, **_: Any) -> Value:
    return softmax(b, x, dim, log=True)


# --- what changes nothing ---------------------------------------------------------------------------------
@reads(
    layers="Identity Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout",
    functions="contiguous clone detach detach_ float to type type_as requires_grad_ cpu positive pos",
    arguments="input",
    becomes="nothing",
)
def nothing(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    return x


@reads(
    functions="dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout",
    arguments="input p training inplace",
    becomes="nothing",
)
def dropout(b: Builder, x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training and p:
        raise b.refuse("it drops values in evaluation too; pass it training=self.training")
    return x


@reads(layers="BinaryActivation", functions="", arguments="input", becomes="bits: -1 where it is negative, else +1")
def sign(b: Builder, x: Value, part: str = "") -> Value:
    return b.add(g.Sign, x, part=part, shape=x.shape)
