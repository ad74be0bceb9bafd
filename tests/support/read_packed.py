"""A reader of model.fsg for trusted files, written from docs/packed.md alone: NumPy and the standard library."""

import json
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray[Any, Any]
Node = dict[str, Any]
Tensors = dict[str, Array]


def read(path: str | Path) -> tuple[list[Node], Tensors]:
    """Return the nodes of a file and its tensors by their full names."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    if metadata["format"] != "fsg-packed" or metadata["version"] not in ("1", "2", "3"):
        raise SystemExit(f"{path}: not an fsg-packed file of version 1, 2 or 3")
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        values = np.frombuffer(
            data[8 + length + start : 8 + length + end],
            {"F32": "<f4", "U32": "<u4", "I8": "i1", "I32": "<i4"}[entry["dtype"]],
        )
        tensors[name] = values.reshape(entry["shape"])
    for name in [name for name in tensors if name.endswith(".weight") and tensors[name].dtype == np.int8]:
        step = tensors.get(name.removesuffix("weight") + "step")
        if step is None:  # of a layer that computes with the integers
            continue
        tensors[name] = tensors[name] * step.reshape(-1, *[1] * (tensors[name].ndim - 1))
    return json.loads(metadata["graph"]), tensors


def run(path: str | Path, images: Array) -> Array:
    """Compute the network of a file on normalised float32 images [N, C, H, W]."""
    nodes, tensors = read(path)
    values: dict[str, Array] = {}
    operators: dict[str, str] = {}
    before = ""
    for node in nodes:
        name, op = node["name"], node["op"]
        own = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        names = node.get("inputs", [] if op in ("Input", "Constant") else [before])
        if op == "Input":
            value = images
        elif op == "BinaryConv":
            value = binary_conv(values[names[0]], node, own, signs=operators[names[0]] == "Sign")
        elif op == "BinaryDense":
            value = binary_dense(values[names[0]], own, signs=operators[names[0]] == "Sign")
        else:
            value = OPERATORS[op]([values[one] for one in names], node, own)
        values[name] = value = np.asarray(value, np.float32)
        operators[name], before = op, name
    return np.broadcast_to(value, (len(images), *value.shape[1:]))  # a constant is there once


# Convolutions and windows


def windows(x: Array, kernel: list[int], stride: list[int], dilation: list[int]) -> Array:
    """Return the windows [N, C, Y, X, KH, KW] of images [N, C, H, W]."""
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    every = sliding_window_view(x, span, axis=(2, 3))
    return every[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def pad(x: Array, four: list[int], value: float, channels: list[int] | None = None) -> Array:
    """Add rows above and below, columns left and right, and channels."""
    front, behind = channels or (0, 0)
    above, below, left, right = four
    return np.pad(x, ((0, 0), (front, behind), (above, below), (left, right)), constant_values=value)


def conv_windows(x: Array, node: Node, kernel: list[int], value: float) -> list[Array]:
    """Return the windows of a convolution, one array [N, K, Y, X, KH, KW] for each group."""
    rows, columns = node.get("padding", [0, 0])
    padded = pad(x, [rows, rows, columns, columns], value)
    all_groups = windows(padded, kernel, node.get("stride", [1, 1]), node.get("dilation", [1, 1]))
    return np.split(all_groups, node.get("groups", 1), axis=1)


def sums(groups: list[Array], weight: Array) -> Array:
    """Return the sums [N, O, Y, X] of windows with a weight [O, K, KH, KW]."""
    weights = np.split(weight, len(groups))
    results = [np.tensordot(x, w, ([1, 4, 5], [1, 2, 3])) for x, w in zip(groups, weights, strict=True)]
    return np.concatenate(results, axis=3).transpose(0, 3, 1, 2)


def conv(inputs: list[Array], node: Node, own: Tensors) -> Array:
    weight = own["weight"]
    return sums(conv_windows(inputs[0], node, list(weight.shape[2:]), 0), weight) + per_channel(own["bias"], 4)


def transposed_conv(inputs: list[Array], node: Node, own: Tensors) -> Array:
    (x,), weight, groups = inputs, own["weight"], node.get("groups", 1)
    stride, dilation, padding = node.get("stride", [1, 1]), node.get("dilation", [1, 1]), node.get("padding", [0, 0])
    size, kernel, extra = x.shape[2:], weight.shape[2:], node.get("output_padding", [0, 0])
    full = [(size[a] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1 + extra[a] for a in (0, 1)]
    result = np.zeros((len(x), weight.shape[1] * groups, *full), np.float32)
    parts = np.split(result, groups, 1), np.split(x, groups, 1), np.split(weight, groups)
    for part, own_x, own_w in zip(*parts, strict=True):
        for r, c in np.ndindex(*kernel):
            y0, x0 = r * dilation[0], c * dilation[1]
            ys = slice(y0, y0 + (size[0] - 1) * stride[0] + 1, stride[0])
            xs = slice(x0, x0 + (size[1] - 1) * stride[1] + 1, stride[1])
            part[:, :, ys, xs] += np.einsum("nkyx,ko->noyx", own_x, own_w[:, :, r, c])
    inside = result[:, :, padding[0] : full[0] - padding[0], padding[1] : full[1] - padding[1]]
    return inside + per_channel(own["bias"], 4)


# Layers on integers


def on_grid(x: Array, node: Node) -> Array:
    """Return the numbers of a node's grid for values in steps."""
    zero = node["zero"]
    return (np.clip(np.rint(x) + zero, -128, 127) - zero).astype(np.float32) * np.float32(node["step"])


def quantize(inputs: list[Array], node: Node, own: Tensors) -> Array:
    return on_grid(inputs[0] * (np.float32(1) / np.float32(node["step"])), node)


def requantized(total: Array, node: Node, own: Tensors) -> Array:
    """Return what integer sums [..., O] become."""
    scale = np.float32(node["source_step"]) * own["weight_step"] / np.float32(node["step"])
    return on_grid((total + own["bias"]).astype(np.float32) * scale, node)


def integers(x: Array, node: Node) -> Array:
    return np.rint(x.astype(np.float64) / np.float64(np.float32(node["source_step"]))).astype(np.int64)


def int8_conv(inputs: list[Array], node: Node, own: Tensors) -> Array:
    weight = own["weight"].astype(np.int64)
    total = sums(conv_windows(integers(inputs[0], node), node, list(weight.shape[2:]), 0), weight)
    return requantized(total.transpose(0, 2, 3, 1), node, own).transpose(0, 3, 1, 2)


def int8_dense(inputs: list[Array], node: Node, own: Tensors) -> Array:
    return requantized(integers(inputs[0], node) @ own["weight"].astype(np.int64).T, node, own)


def pool(reduce: Callable[..., Array], outside: float) -> Callable[[list[Array], Node, Tensors], Array]:
    def compute(inputs: list[Array], node: Node, own: Tensors) -> Array:
        padded = pad(inputs[0], node.get("padding", [0, 0, 0, 0]), outside)
        return reduce(windows(padded, node["kernel"], node.get("stride", [1, 1]), [1, 1]), axis=(4, 5))

    return compute


# Binary layers

ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def pack(bits: Array) -> Array:
    """Pack bits [..., n] into words [..., ceil(n / 32)], the lowest bit first."""
    filled = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 32)])
    return np.packbits(filled, axis=-1, bitorder="little").view("<u4")


def popcount(words: Array) -> Array:
    """Return how many bits of words [..., W] are set, [...]."""
    return ONES[words.view(np.uint8)].sum(-1, dtype=np.int64)


def weights(negative: Array, count: int) -> Array:
    """Return the weights [O, count], -1 and +1, of rows of bits."""
    bits = np.unpackbits(negative.view(np.uint8), axis=1, count=count, bitorder="little")
    return 1 - 2 * bits.astype(np.float32)


def sign_sums(x: Array, negative: Array) -> Array:
    """Return the sums [..., O] of x [..., n], which is -1, 1, or 0 where nothing is added, with rows of bits."""
    signs, counted = pack(x < 0), pack(x != 0)
    n = popcount(counted)
    return np.stack([n - 2 * popcount((signs ^ row) & counted) for row in negative], -1).astype(np.float32)


def binary_conv(x: Array, node: Node, own: Tensors, signs: bool) -> Array:
    kernel, negative = node.get("kernel", [1, 1]), own["negative"]
    outside = float(node.get("padding_value", 0))
    groups = conv_windows(x, node, kernel, outside)
    inputs = groups[0].shape[1]
    if signs and outside in (-1, 0, 1):
        rows = np.split(negative, len(groups))
        in_order = [group.transpose(0, 2, 3, 4, 5, 1) for group in groups]  # [N, Y, X, KH, KW, K]
        flat = [group.reshape(*group.shape[:3], -1) for group in in_order]
        results = [sign_sums(one, row) for one, row in zip(flat, rows, strict=True)]
        total = np.concatenate(results, axis=3).transpose(0, 3, 1, 2)
    else:
        weight = weights(negative, math.prod(kernel) * inputs).reshape(-1, *kernel, inputs)
        total = sums(groups, weight.transpose(0, 3, 1, 2))
    return total * per_channel(own["scale"], 4) + per_channel(own["bias"], 4)


def binary_dense(x: Array, own: Tensors, signs: bool) -> Array:
    negative = own["negative"]
    total = sign_sums(x, negative) if signs else x @ weights(negative, x.shape[-1]).T
    return total * own["scale"] + own["bias"]


# The other operators: of their inputs, their node and its tensors


def per_channel(values: Array, axes: int) -> Array:
    """Shape values [C] so that they are broadcast over axis 1 of so many axes."""
    return values.reshape(-1, *[1] * (axes - 2))


def affine(inputs: list[Array], node: Node, own: Tensors) -> Array:
    (x,) = inputs
    return x * per_channel(own["scale"], x.ndim) + per_channel(own["bias"], x.ndim)


def prelu(inputs: list[Array], node: Node, own: Tensors) -> Array:
    (x,) = inputs
    return np.where(x < 0, per_channel(own["slope"], x.ndim) * x, x)


def concat(inputs: list[Array], node: Node, own: Tensors) -> Array:
    batch = max(len(x) for x in inputs)
    return np.concatenate([np.broadcast_to(x, (batch, *x.shape[1:])) for x in inputs], node.get("axis", 1))


def reduce(inputs: list[Array], node: Node, own: Tensors) -> Array:
    function = getattr(np, node["operator"])  # mean, sum, max
    return function(inputs[0], axis=tuple(node["axes"]), keepdims=len(node["shape"]) == inputs[0].ndim)


def softmax(inputs: list[Array], node: Node, own: Tensors) -> Array:
    axis = node.get("axis", 1)
    x = inputs[0] - inputs[0].max(axis, keepdims=True)
    logarithm = x - np.log(np.exp(x).sum(axis, keepdims=True))
    return logarithm if node.get("log", False) else np.exp(logarithm)


def resize(inputs: list[Array], node: Node, own: Tensors) -> Array:
    (x,) = inputs
    for axis in (2, 3):
        old, new = x.shape[axis], node["shape"][axis]
        i = np.arange(new)
        if node["mode"] == "nearest":
            x = x.take(i * old // new, axis)
            continue
        place = np.maximum((i + 0.5) * old / new - 0.5, 0)
        if node.get("align_corners", False):
            place = i * (old - 1) / max(new - 1, 1)
        first = np.floor(place).astype(int)
        rest = (place - first).astype(np.float32).reshape(-1, *[1] * (3 - axis))
        x = x.take(first, axis) * (1 - rest) + x.take(np.minimum(first + 1, old - 1), axis) * rest
    return x


def elementwise(inputs: list[Array], node: Node, own: Tensors) -> Array:
    settings = {key: float(value) for key, value in node.get("settings", {}).items()}  # float("inf") is a number
    return FUNCTIONS[node["operator"]](inputs[0], **settings)


def gelu(x: Array, approximate: float) -> Array:
    if approximate:
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "Hardtanh": lambda x, min_val, max_val: np.minimum(np.maximum(x, min_val), max_val),
    "LeakyReLU": lambda x, negative_slope: np.where(x < 0, negative_slope * x, x),
    "ELU": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "Sigmoid": lambda x: np.exp(-np.logaddexp(0, -x)),
    "Tanh": np.tanh,
    "Hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "Hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "GELU": gelu,
    "Exp": np.exp,
    "Log": np.log,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Sign": np.sign,
    "Round": np.rint,
    "Floor": np.floor,
    "Ceil": np.ceil,
}
NUMPY = {"add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "max": "maximum", "min": "minimum"}
OPERATORS: dict[str, Callable[[list[Array], Node, Tensors], Array]] = {
    "Constant": lambda inputs, node, own: own["value"],
    "Sign": lambda inputs, node, own: np.where(inputs[0] < 0, -1, 1),
    "Negative": lambda inputs, node, own: np.clip(-node["gain"] * inputs[0], 0, 6),
    "Conv": conv,
    "Quantize": quantize,
    "Int8Conv": int8_conv,
    "Int8Dense": int8_dense,
    "TransposedConv": transposed_conv,
    "Dense": lambda inputs, node, own: inputs[0] @ own["weight"].T + own["bias"],
    "Affine": affine,
    "PReLU": prelu,
    "Elementwise": elementwise,
    "Arithmetic": lambda inputs, node, own: getattr(np, NUMPY[node["operator"]])(*inputs),
    "MatMul": lambda inputs, node, own: np.matmul(*inputs),
    "Concat": concat,
    "Take": lambda inputs, node, own: inputs[0].take(node["index"], node.get("axis", 1)),
    "Pad": lambda inputs, node, own: pad(
        inputs[0], node.get("padding", [0, 0, 0, 0]), float(node.get("value", 0)), node.get("channels")
    ),
    "MaxPool": pool(np.max, -math.inf),
    "AveragePool": pool(np.mean, 0),
    "Reduce": reduce,
    "Softmax": softmax,
    "Resize": resize,
    "Transpose": lambda inputs, node, own: inputs[0].transpose(node["permutation"]),
    "Reshape": lambda inputs, node, own: inputs[0].reshape(-1, *node["shape"][1:]),
}

if __name__ == "__main__":
    result = run(sys.argv[1], np.load(sys.argv[2]).astype(np.float32))
    print(result) if len(sys.argv) < 4 else np.save(sys.argv[3], result)
