"""Operators that treat every value by itself: a row each, which is all there is to add for one more.

A row says which layer and functions of torch.nn are meant, what they compute, and how each format writes it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Settings = Mapping[str, float]


@dataclass(frozen=True)
class Elementwise:
    """An operator on values one by one.

    layer: its class in torch.nn. functions: its names in torch.nn.functional, in torch and as a method of tensors.
    settings: names of the layer's attributes and what they are by default, in the order in which the functions take
    them.
    compute: what it means, of a NumPy array and the settings. lowest: the least value that it gives, if there is one.
    onnx: the operator and its attributes; clips take their bounds as inputs. tensorflow: of the module tf, a tensor and
    the settings; None where the converters are not trusted with it.
    """

    layer: str
    functions: tuple[str, ...]
    compute: Callable[[Any, Settings], Any]
    onnx: Callable[[Settings], tuple[str, dict[str, Any]]]
    tensorflow: Callable[[Any, Any, Settings], Any] | None
    settings: Mapping[str, float] = field(default_factory=dict)
    lowest: float | None = None


_TANH = np.float32(np.sqrt(2 / np.pi))


def _erf(x: Any) -> Any:
    """The error function of x / sqrt(2)."""
    return np.vectorize(math.erf, otypes=[np.float64])(x * math.sqrt(0.5))


def _sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):  # far below 0 it is 0, but not before float32 cannot say less
        return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class ArithmeticRow:
    """An operator on two tensors, broadcast to one shape.

    functions: its names in torch, in Python's operator and as a method of tensors. compute: of NumPy arrays. onnx,
    tensorflow: its name there, in the module tf or tf.math.
    """

    functions: tuple[str, ...]
    compute: Callable[[Any, Any], Any]
    onnx: str
    tensorflow: str


ARITHMETIC = {
    "add": ArithmeticRow(("add", "add_", "iadd"), np.add, "Add", "add"),
    "sub": ArithmeticRow(("sub", "sub_", "isub", "subtract"), np.subtract, "Sub", "subtract"),
    "mul": ArithmeticRow(("mul", "mul_", "imul", "multiply"), np.multiply, "Mul", "multiply"),
    "div": ArithmeticRow(("truediv", "div", "div_", "itruediv", "divide", "true_divide"), np.divide, "Div", "divide"),
    "max": ArithmeticRow(("maximum", "max"), np.maximum, "Max", "maximum"),
    "min": ArithmeticRow(("minimum", "min"), np.minimum, "Min", "minimum"),
}
"""The operators of two tensors by the name that nodes have for them."""


OPERATORS = {
    operator.layer: operator
    for operator in (
        Elementwise(
            "ReLU",
            ("relu", "relu_"),
            compute=lambda x, _: np.maximum(x, 0),
            onnx=lambda _: ("Relu", {}),
            tensorflow=lambda tf, x, _: tf.nn.relu(x),
            lowest=0.0,
        ),
        Elementwise(
            "ReLU6",
            ("relu6",),
            compute=lambda x, _: np.clip(x, 0, 6),
            onnx=lambda _: ("Clip", {"min": 0.0, "max": 6.0}),
            tensorflow=lambda tf, x, _: tf.nn.relu6(x),
            lowest=0.0,
        ),
        Elementwise(
            "Hardtanh",
            ("hardtanh", "hardtanh_"),
            compute=lambda x, s: np.clip(x, s["min_val"], s["max_val"]),
            onnx=lambda s: ("Clip", {"min": s["min_val"], "max": s["max_val"]}),
            tensorflow=lambda tf, x, s: tf.minimum(tf.maximum(x, s["min_val"]), s["max_val"]),
            settings={"min_val": -1.0, "max_val": 1.0},
        ),
        Elementwise(
            "LeakyReLU",
            ("leaky_relu", "leaky_relu_"),
            compute=lambda x, s: np.where(x < 0, s["negative_slope"] * x, x),
            onnx=lambda s: ("LeakyRelu", {"alpha": s["negative_slope"]}),
            tensorflow=lambda tf, x, s: tf.nn.leaky_relu(x, s["negative_slope"]),
            settings={"negative_slope": 0.01},
        ),
        Elementwise(
            "ELU",
            ("elu", "elu_"),
            compute=lambda x, s: np.where(x < 0, s["alpha"] * np.expm1(np.minimum(x, 0)), x),
            onnx=lambda s: ("Elu", {"alpha": s["alpha"]}),
            tensorflow=lambda tf, x, s: tf.where(x < 0, s["alpha"] * (tf.exp(tf.minimum(x, 0)) - 1), x),
            settings={"alpha": 1.0},
        ),
        Elementwise(
            "Sigmoid",
            ("sigmoid", "sigmoid_"),
            compute=lambda x, _: _sigmoid(x),
            onnx=lambda _: ("Sigmoid", {}),
            tensorflow=lambda tf, x, _: tf.sigmoid(x),
            lowest=0.0,
        ),
        Elementwise(
            "Tanh",
            ("tanh", "tanh_"),
            compute=lambda x, _: np.tanh(x),
            onnx=lambda _: ("Tanh", {}),
            tensorflow=lambda tf, x, _: tf.tanh(x),
            lowest=-1.0,
        ),
        Elementwise(
            "Hardsigmoid",
            ("hardsigmoid",),
            compute=lambda x, _: np.clip(x + 3, 0, 6) / 6,
            onnx=lambda _: ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
            tensorflow=lambda tf, x, _: tf.nn.relu6(x + 3.0) * (1 / 6),
            lowest=0.0,
        ),
        Elementwise(
            "Hardswish",
            ("hardswish",),
            compute=lambda x, _: x * np.clip(x + 3, 0, 6) / 6,
            onnx=lambda _: ("HardSwish", {}),
            tensorflow=lambda tf, x, _: x * (tf.nn.relu6(x + 3.0) * (1 / 6)),
        ),
        Elementwise(
            "GELU",
            ("gelu",),
            compute=lambda x, s: (
                0.5 * x * (1 + (np.tanh(_TANH * (x + 0.044715 * x**3)) if s["approximate"] else _erf(x)))
            ),
            onnx=lambda s: ("Gelu", {"approximate": "tanh" if s["approximate"] else "none"}),
            tensorflow=None,
            settings={"approximate": 0.0},
        ),
        Elementwise(
            "Exp",
            ("exp", "exp_"),
            compute=lambda x, _: np.exp(x),
            onnx=lambda _: ("Exp", {}),
            tensorflow=lambda tf, x, _: tf.exp(x),
            lowest=0.0,
        ),
        Elementwise(
            "Log",
            ("log", "log_"),
            compute=lambda x, _: np.log(x),
            onnx=lambda _: ("Log", {}),
            tensorflow=lambda tf, x, _: tf.math.log(x),
        ),
        Elementwise(
            "Abs",
            ("abs", "abs_", "absolute"),
            compute=lambda x, _: np.abs(x),
            onnx=lambda _: ("Abs", {}),
            tensorflow=lambda tf, x, _: tf.abs(x),
            lowest=0.0,
        ),
        Elementwise(
            "Sqrt",
            ("sqrt", "sqrt_"),
            compute=lambda x, _: np.sqrt(x),
            onnx=lambda _: ("Sqrt", {}),
            tensorflow=lambda tf, x, _: tf.sqrt(x),
            lowest=0.0,
        ),
        Elementwise(
            "Sign",
            ("sign", "sign_", "sgn"),
            compute=lambda x, _: np.sign(x),
            onnx=lambda _: ("Sign", {}),
            tensorflow=lambda tf, x, _: tf.sign(x),
        ),
        Elementwise(
            "Round",
            ("round", "round_"),
            compute=lambda x, _: np.rint(x),
            onnx=lambda _: ("Round", {}),
            tensorflow=lambda tf, x, _: tf.round(x),
        ),
        Elementwise(
            "Floor",
            ("floor", "floor_"),
            compute=lambda x, _: np.floor(x),
            onnx=lambda _: ("Floor", {}),
            tensorflow=lambda tf, x, _: tf.floor(x),
        ),
        Elementwise(
            "Ceil",
            ("ceil", "ceil_"),
            compute=lambda x, _: np.ceil(x),
            onnx=lambda _: ("Ceil", {}),
            tensorflow=lambda tf, x, _: tf.math.ceil(x),
        ),
    )
}
"""The operators by the name of their layer."""
