"""Operators that are loops over pixels: the call, and what is done to a pixel's channels before they are stored."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg.export.formats.c.calls import SLACK, Bits, Post, Scratch, Step, Window, data_of, signs_bytes
from fsg.export.formats.tflite import lowered
from fsg.export.formats.tflite.lowered import SAME, Operator, Tensor

ARITHMETIC = {
    "ADD": ("ADD", "ADD"),
    "MUL": ("MUL", "MUL"),
    "SUB": ("SUB", "SUB_FROM"),
    "DIV": ("DIV", "DIV_INTO"),
    "MAXIMUM": ("MAXIMUM", "MAXIMUM"),
    "MINIMUM": ("MINIMUM", "MINIMUM"),
}
"""Of two values: the post-operation where the first is at hand, and where the second is."""
FUNCTIONS = (
    *("RELU", "RELU6", "RELU_N1_TO_1", "ABS", "SIGN", "ELU", "LOGISTIC", "TANH", "HARD_SWISH", "EXP", "LOG", "SQRT"),
    *("ROUND", "FLOOR", "CEIL"),
)
PIXELS = 4  # that a float convolution computes at once, where there are registers for them
ACTIVATIONS = {number: code for code, number in lowered.ACTIVATIONS.items()}


def clamp(operator: Operator) -> list[Post]:
    number = operator.options.get("fusedActivationFunction", 0)
    return [Post(ACTIVATIONS[number])] if number else []


def elementwise(operator: Operator, value: Tensor | None) -> list[Post] | None:
    """The post-operations that do what an operator does to `value`, one of its inputs; None for another operator."""
    code, inputs, shape = operator.code, operator.inputs, operator.output.shape
    if value is None or value.shape != shape or not shape:
        return None
    if code in FUNCTIONS:
        return [Post(code)]
    if code == "GELU":
        return [Post("GELU_TANH" if operator.options["approximate"] else "GELU")]
    if code == "LEAKY_RELU":
        slope = np.array([operator.options["alpha"]], np.float32)
        return [Post("PRELU_ONE", tensor=Tensor((1,), data=slope))]
    if code not in (*ARITHMETIC, "PRELU"):
        return None
    at = list(inputs).index(value)
    other = inputs[1 - at]
    if other is None or other is value or (code == "PRELU" and at == 1):
        return None
    does = "PRELU" if code == "PRELU" else ARITHMETIC[code][at]
    if other.shape == shape:
        return [Post(does, "FSG_PER_VALUE", other), *clamp(operator)]
    if int(np.prod(other.shape)) == 1:
        return [Post(f"{does}_ONE", tensor=other), *clamp(operator)]
    if other.shape[-1:] == shape[-1:] and int(np.prod(other.shape)) == shape[-1]:
        return [Post(does, tensor=other), *clamp(operator)]
    return None


def _sides(operator: Operator, size: Any, kernel: Any, stride: Any, dilation: Any, out: Any) -> tuple[int, int]:
    if "sides" in operator.options:
        top, _, left, _ = operator.options["sides"]
        return top, left
    if operator.options["padding"] != SAME:
        return 0, 0
    reach = [(out[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    return max(reach[0] - size[0], 0) // 2, max(reach[1] - size[1], 0) // 2


def window_of(operator: Operator, kernel: Any, stride: Any, dilation: Any, channels: int, outputs: int) -> Window:
    image = operator.inputs[0]
    assert image is not None
    size, out = image.shape[1:3], operator.output.shape[1:3]
    before = _sides(operator, size, kernel, stride, dilation, out)
    return Window((size[0], size[1]), channels, (out[0], out[1]), outputs, kernel, stride, dilation, before)


def _convolution(operator: Operator) -> Step:
    image, weight, bias = operator.inputs
    assert image is not None
    options, weights = operator.options, data_of(weight)
    is_depthwise = operator.code == "DEPTHWISE_CONV_2D"
    outputs = operator.output.shape[-1]
    window = window_of(
        operator,
        weights.shape[1:3],
        (options["strideH"], options["strideW"]),
        (options["dilationHFactor"], options["dilationWFactor"]),
        image.shape[-1],
        outputs,
    )
    room = Scratch(4 * outputs * (1 if is_depthwise else PIXELS))
    if is_depthwise:
        return Step("fsg_depthwise", [window, image, weights[0], data_of(bias), room], clamp(operator))
    weights = _ungrouped(weights, image.shape[-1])
    return _of_floats([window, image], weight, weights.transpose(1, 2, 3, 0), [data_of(bias), room], operator)


def _of_floats(
    before: list[Any], weight: Tensor | None, weights: NDArray[Any], after: list[Any], operator: Operator
) -> Step:
    """A convolution with weights [..., O]; as integers and steps, if they have any."""
    assert weight is not None
    if weight.steps is None:
        return Step("fsg_convolution", [*before, weights, "NULL", *after], clamp(operator))
    whole = np.rint(weights / weight.steps).astype(np.int8)
    return Step("fsg_convolution", [*before, whole, weight.steps, *after], clamp(operator), defines=("INT8",))


def _ungrouped(weights: NDArray[Any], channels: int) -> NDArray[Any]:
    """Weights [O, KH, KW, I] of groups as those of all channels, of which the weights of others are 0."""
    each = weights.shape[-1]
    if each == channels:
        return weights
    whole = np.zeros((*weights.shape[:3], channels), np.float32)
    for group, outputs in enumerate(np.split(np.arange(len(weights)), channels // each)):
        whole[outputs, ..., group * each : (group + 1) * each] = weights[outputs]
    return whole


def _dense(operator: Operator) -> Step:
    x, weight, bias = operator.inputs
    assert x is not None
    weights = data_of(weight)
    outputs, inputs = weights.shape
    rows = int(np.prod(x.shape)) // inputs
    window = Window((1, rows), inputs, (1, rows), outputs)
    return _of_floats([window, x], weight, weights.T, [data_of(bias), Scratch(4 * outputs * PIXELS)], operator)


def _binary(operator: Operator) -> Step:
    bits, filters, scale, bias, thresholds = operator.inputs
    assert bits is not None
    options, channels = operator.options, operator.options["channels_in"]
    words = data_of(filters)
    outputs, rows, columns, _ = words.shape
    window = window_of(
        operator,
        (rows, columns),
        (options["stride_height"], options["stride_width"]),
        (options["dilation_height_factor"], options["dilation_width_factor"]),
        channels,
        outputs,
    )
    length = rows * columns * channels
    taps = words.view(np.uint8)[..., : signs_bytes(channels)].reshape(outputs, -1)
    packed = np.ascontiguousarray(np.pad(taps, ((0, 0), (0, -taps.shape[1] % 4)))).view("<u4")
    zeros = "sides" not in options and options["padding"] == SAME and options["pad_values"] == 0
    arguments = [
        *(window, Bits(bits), packed),
        "0xff" if options.get("outside") else "0",
        str(int(zeros)),
        Scratch(4 * outputs),
        Scratch(4 * packed.shape[1] + SLACK, "unsigned char"),
    ]
    number = options["fused_activation_function"]
    posts = [Post(ACTIVATIONS[number])] if number else []
    if thresholds is not None:  # a sum is negative where more than so many signs differ
        least = (2 * data_of(thresholds).astype(np.int64) + 1 - length).astype(np.float32)
        posts += [Post("ADD", tensor=Tensor(least.shape, data=least)), Post("PACK", tensor=operator.output)]
    else:
        factors = np.stack([data_of(scale).reshape(-1), data_of(bias).reshape(-1)])
        posts.append(Post("SCALE", tensor=Tensor(factors.shape, data=factors)))
    return Step("fsg_binary_convolution", arguments, posts, defines=("ZERO_PADDING",) if zeros else ())


def _pool(operator: Operator) -> Step:
    image, options = operator.inputs[0], operator.options
    assert image is not None
    kernel, stride = (options["filterHeight"], options["filterWidth"]), (options["strideH"], options["strideW"])
    channels = image.shape[-1]
    window = window_of(operator, kernel, stride, (1, 1), channels, channels)
    is_mean = str(int(operator.code == "AVERAGE_POOL_2D"))
    return Step("fsg_pool", [window, image, is_mean, Scratch(4 * channels)], clamp(operator))


HEADS = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _dense,
    "LceBconv2d": _binary,
    "MAX_POOL_2D": _pool,
    "AVERAGE_POOL_2D": _pool,
}
