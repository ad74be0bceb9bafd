"""How TFLite writes the operators of `elementwise.OPERATORS`: a function each of an emitter, a tensor and settings."""

import math
from collections.abc import Callable

import numpy as np

from fsg.export.elementwise import Settings
from fsg.export.formats.tflite.emit import Emitter
from fsg.export.formats.tflite.lowered import Tensor

Write = Callable[[Emitter, Tensor, Settings], Tensor]


def _plain(code: str) -> Write:
    return lambda to, x, _: to.like(code, x)


def clip(to: Emitter, x: Tensor, low: float, high: float) -> Tensor:
    """The values of x, none below `low` or above `high`."""
    known = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
    if (low, high) in known:
        return to.like(known[low, high], x)
    if low > -math.inf:
        x = to.like("RELU", x) if low == 0 else to.like("MAXIMUM", x, low)
    return to.like("MINIMUM", x, high) if high < math.inf else x


def _elu(to: Emitter, x: Tensor, settings: Settings) -> Tensor:
    """TFLite's ELU has no alpha: it is done on the negative part alone."""
    if settings["alpha"] == 1:
        return to.like("ELU", x)
    below = to.like("MUL", to.like("ELU", to.like("MINIMUM", x, 0.0)), settings["alpha"])
    return to.like("ADD", to.like("RELU", x), below)


def _hardsigmoid(to: Emitter, x: Tensor, _: Settings) -> Tensor:
    return to.like("MUL", to.like("RELU6", to.like("ADD", x, 3.0)), float(np.float32(1 / 6)))


WRITE: dict[str, Write] = {
    "ReLU": _plain("RELU"),
    "ReLU6": _plain("RELU6"),
    "Hardtanh": lambda to, x, s: clip(to, x, s["min_val"], s["max_val"]),
    "LeakyReLU": lambda to, x, s: to.like("LEAKY_RELU", x, alpha=s["negative_slope"]),
    "ELU": _elu,
    "Sigmoid": _plain("LOGISTIC"),
    "Tanh": _plain("TANH"),
    "Hardsigmoid": _hardsigmoid,
    "Hardswish": _plain("HARD_SWISH"),
    "GELU": lambda to, x, s: to.like("GELU", x, approximate=bool(s.get("approximate", 0))),
    "Exp": _plain("EXP"),
    "Log": _plain("LOG"),
    "Abs": _plain("ABS"),
    "Round": _plain("ROUND"),
    "Floor": _plain("FLOOR"),
    "Ceil": _plain("CEIL"),
    "Sqrt": _plain("SQRT"),
    "Sign": _plain("SIGN"),
}
"""By the name of the row."""
