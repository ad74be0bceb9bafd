"""Operators that treat every value by itself: a row each, which is all there is to add for one more.

A row says which layer and functions of torch.nn are meant, and how formats write it; what it computes is the row of the
same name in runtime/model/meaning.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fsg.runtime.model.meaning import ELEMENTWISE, Settings


@dataclass(frozen=True)
class Elementwise:
    """An operator on values one by one.

    layer: its class in torch.nn. functions: its names in torch.nn.functional, in torch and as a method of tensors.
    settings: names of the layer's attributes and what they are by default, in the order in which the functions take
    them.
    lowest: the least value that it gives, if there is one.
    onnx: the operator and its attributes; clips take their bounds as inputs. tensorflow: of the module tf, a tensor and
    the settings; None where the converters are not trusted with it.
    """

    layer: str
    functions: tuple[str, ...]
    onnx: Callable[[Settings], tuple[str, dict[str, Any]]]
    tensorflow: Callable[[Any, Any, Settings], Any] | None
    settings: Mapping[str, float] = field(default_factory=dict)
    lowest: float | None = None

    def compute(self, x: Any, settings: Settings) -> Any:
        """What it makes of a NumPy array."""
        return ELEMENTWISE[self.layer](x, settings)


@dataclass(frozen=True)
class ArithmeticRow:
    """An operator on two tensors, broadcast to one shape.

    functions: its names in torch, in Python's operator and as a method of tensors. onnx, tensorflow: its name there, in
    the module tf or tf.math.
    """

    functions: tuple[str, ...]
    onnx: str
    tensorflow: str


ARITHMETIC = {
    "add": ArithmeticRow(("add", "add_", "iadd"), "Add", "add"),
    "sub": ArithmeticRow(("sub", "sub_", "isub", "subtract"), "Sub", "subtract"),
    "mul": ArithmeticRow(("mul", "mul_", "imul", "multiply"), "Mul", "multiply"),
    "div": ArithmeticRow(("truediv", "div", "div_", "itruediv", "divide", "true_divide"), "Div", "divide"),
    "max": ArithmeticRow(("maximum", "max"), "Max", "maximum"),
    "min": ArithmeticRow(("minimum", "min"), "Min", "minimum"),
}
"""The operators of two tensors by the name that nodes have for them."""


OPERATORS = {
    operator.layer: operator
    for operator in (
        Elementwise(
            "ReLU",
            ("relu", "relu_"),
            onnx=lambda _: ("Relu", {}),
            tensorflow=lambda tf, x, _: tf.nn.relu(x),
            lowest=0.0,
        ),
        Elementwise(
            "ReLU6",
            ("relu6",),
            onnx=lambda _: ("Clip", {"min": 0.0, "max": 6.0}),
            tensorflow=lambda tf, x, _: tf.nn.relu6(x),
            lowest=0.0,
        ),
        Elementwise(
            "Hardtanh",
            ("hardtanh", "hardtanh_"),
            onnx=lambda s: ("Clip", {"min": s["min_val"], "max": s["max_val"]}),
            tensorflow=lambda tf, x, s: tf.minimum(tf.maximum(x, s["min_val"]), s["max_val"]),
            settings={"min_val": -1.0, "max_val": 1.0},
        ),
        Elementwise(
            "LeakyReLU",
            ("leaky_relu", "leaky_relu_"),
            onnx=lambda s: ("LeakyRelu", {"alpha": s["negative_slope"]}),
            tensorflow=lambda tf, x, s: tf.nn.leaky_relu(x, s["negative_slope"]),
            settings={"negative_slope": 0.01},
        ),
        Elementwise(
            "ELU",
            ("elu", "elu_"),
            onnx=lambda s: ("Elu", {"alpha": s["alpha"]}),
            tensorflow=lambda tf, x, s: tf.where(x < 0, s["alpha"] * (tf.exp(tf.minimum(x, 0)) - 1), x),
            settings={"alpha": 1.0},
        ),
        Elementwise(
            "Sigmoid",
            ("sigmoid", "sigmoid_"),
            onnx=lambda _: ("Sigmoid", {}),
            tensorflow=lambda tf, x, _: tf.sigmoid(x),
            lowest=0.0,
        ),
        Elementwise(
            "Tanh",
            ("tanh", "tanh_"),
            onnx=lambda _: ("Tanh", {}),
            tensorflow=lambda tf, x, _: tf.tanh(x),
            lowest=-1.0,
        ),
        Elementwise(
            "Hardsigmoid",
            ("hardsigmoid",),
            onnx=lambda _: ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
            tensorflow=lambda tf, x, _: tf.nn.relu6(x + 3.0) * (1 / 6),
            lowest=0.0,
        ),
        Elementwise(
            "Hardswish",
            ("hardswish",),
            onnx=lambda _: ("HardSwish", {}),
            tensorflow=lambda tf, x, _: x * (tf.nn.relu6(x + 3.0) * (1 / 6)),
        ),
        Elementwise(
            "GELU",
            ("gelu",),
            onnx=lambda s: ("Gelu", {"approximate": "tanh" if s["approximate"] else "none"}),
            tensorflow=None,
            settings={"approximate": 0.0},
        ),
        Elementwise(
            "Exp",
            ("exp", "exp_"),
            onnx=lambda _: ("Exp", {}),
            tensorflow=lambda tf, x, _: tf.exp(x),
            lowest=0.0,
        ),
        Elementwise(
            "Log",
            ("log", "log_"),
            onnx=lambda _: ("Log", {}),
            tensorflow=lambda tf, x, _: tf.math.log(x),
        ),
        Elementwise(
            "Abs",
            ("abs", "abs_", "absolute"),
            onnx=lambda _: ("Abs", {}),
            tensorflow=lambda tf, x, _: tf.abs(x),
            lowest=0.0,
        ),
        Elementwise(
            "Sqrt",
            ("sqrt", "sqrt_"),
            onnx=lambda _: ("Sqrt", {}),
            tensorflow=lambda tf, x, _: tf.sqrt(x),
            lowest=0.0,
        ),
        Elementwise(
            "Sign",
            ("sign", "sign_", "sgn"),
            onnx=lambda _: ("Sign", {}),
            tensorflow=lambda tf, x, _: tf.sign(x),
        ),
        Elementwise(
            "Round",
            ("round", "round_"),
            onnx=lambda _: ("Round", {}),
            tensorflow=lambda tf, x, _: tf.round(x),
        ),
        Elementwise(
            "Floor",
            ("floor", "floor_"),
            onnx=lambda _: ("Floor", {}),
            tensorflow=lambda tf, x, _: tf.floor(x),
        ),
        Elementwise(
            "Ceil",
            ("ceil", "ceil_"),
            onnx=lambda _: ("Ceil", {}),
            tensorflow=lambda tf, x, _: tf.math.ceil(x),
        ),
    )
}
"""The operators by the name of their layer."""
