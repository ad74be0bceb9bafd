"""Operators that are loops over pixels: the call, and what is done to a pixel's channels before they are stored."""

from typing import Any

import numpy as np

from fsg.export.formats.c.calls import SLACK, Bits, Post, Scratch, Step, Window, data_of, signs_bytes
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
ACTIVATIONS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}


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


def _convolution(operator: Operator) -> tuple[Step, list[Post]]:
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
    if not is_depthwise and weights.shape[-1] != image.shape[-1]:
        return _grouped(operator, window)
    weights = weights[0] if is_depthwise else weights.transpose(1, 2, 3, 0)
    kernel = "fsg_depthwise" if is_depthwise else "fsg_convolution"
    arguments = [window, image, weights, data_of(bias), Scratch(4 * outputs * (1 if is_depthwise else PIXELS))]
    return Step(kernel, arguments, window=window), clamp(operator)


PIXELS = 4  # that a float convolution computes at once, where there are registers for them


def _grouped(operator: Operator, window: Window) -> tuple[Step, list[Post]]:
    """A convolution in groups as one of all channels, of which the weights of others are 0."""
    image, weight, bias = operator.inputs
    assert image is not None
    weights = data_of(weight)
    groups = image.shape[-1] // weights.shape[-1]
    whole = np.zeros((*weights.shape[:3], image.shape[-1]), np.float32)
    for group, outputs in enumerate(np.split(np.arange(len(weights)), groups)):
        inputs = slice(group * weights.shape[-1], (group + 1) * weights.shape[-1])
        whole[outputs, ..., inputs] = weights[outputs]
    arguments = [window, image, whole.transpose(1, 2, 3, 0), data_of(bias), Scratch(4 * window.outputs * PIXELS)]
    return Step("fsg_convolution", arguments, window=window), clamp(operator)


def _dense(operator: Operator) -> tuple[Step, list[Post]]:
    x, weight, bias = operator.inputs
    assert x is not None
    weights = data_of(weight)
    outputs, inputs = weights.shape
    rows = int(np.prod(x.shape)) // inputs
    window = Window((1, rows), inputs, (1, rows), outputs)
    arguments = [window, x, weights.T, data_of(bias), Scratch(4 * outputs * PIXELS)]
    return Step("fsg_convolution", arguments, window=window), clamp(operator)


def _binary(operator: Operator) -> tuple[Step, list[Post]]:
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
    step = Step("fsg_binary_convolution", arguments, window=window, defines=("ZERO_PADDING",) if zeros else ())
    number = options["fused_activation_function"]
    posts = [Post(ACTIVATIONS[number])] if number else []
    if thresholds is not None:  # a sum is negative where more than so many signs differ
        least = (2 * data_of(thresholds).astype(np.int64) + 1 - length).astype(np.float32)
        posts += [Post("ADD", tensor=Tensor(least.shape, data=least)), Post("PACK", tensor=operator.output)]
        return step, posts
    factors = np.stack([data_of(scale).reshape(-1), data_of(bias).reshape(-1)])
    return step, [*posts, Post("SCALE", tensor=Tensor(factors.shape, data=factors))]


def _pool(operator: Operator) -> tuple[Step, list[Post]]:
    image, options = operator.inputs[0], operator.options
    assert image is not None
    kernel, stride = (options["filterHeight"], options["filterWidth"]), (options["strideH"], options["strideW"])
    channels = image.shape[-1]
    window = window_of(operator, kernel, stride, (1, 1), channels, channels)
    is_mean = str(int(operator.code == "AVERAGE_POOL_2D"))
    return Step("fsg_pool", [window, image, is_mean, Scratch(4 * channels)], window=window), clamp(operator)


HEADS = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _dense,
    "LceBconv2d": _binary,
    "MAX_POOL_2D": _pool,
    "AVERAGE_POOL_2D": _pool,
}
