"""Float, transposed and binary convolutions as operators of a .tflite file."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.formats.tflite.emit import IMAGE, Emitter, Value, result_grid
from fsg.export.formats.tflite.lowered import SAME, VALID, Tensor, place
from fsg.export.formats.tflite.packed import Chain, padding_of, pool_padding

INT32 = np.dtype(np.int32)


def conv(to: Emitter, node: g.Conv | g.Int8Conv, x: Value) -> Value:
    """CONV_2D, or DEPTHWISE_CONV_2D where each group has one channel."""
    image, kernel = to.ordered(x, IMAGE), node.weight.shape[2:]
    sizes, channels = image.shape[1:3], image.shape[3]
    padding, sides = place(sizes, kernel, node.stride, node.dilation, node.padding, node.shape[2:])
    if padding == VALID:
        image = to.pad_image(image, sides, 0.0)
    options = {
        "padding": padding,
        "strideH": node.stride[0],
        "strideW": node.stride[1],
        "dilationHFactor": node.dilation[0],
        "dilationWFactor": node.dilation[1],
    }
    is_depthwise = node.groups == channels > 1
    if is_depthwise:
        options["depthMultiplier"] = len(node.weight) // channels
    order = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
    output = to.emit(
        "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D",
        [image, *to.parameters(node, node.weight, order)],
        (image.shape[0], *node.shape[2:], len(node.weight)),
        grid=result_grid(node),
        **options,
    )
    return Value(output, IMAGE)


def transposed_conv(to: Emitter, node: g.TransposedConv, x: Value) -> Value:
    """TRANSPOSE_CONV, which knows no groups, dilation or output padding: zeros in the kernel do."""
    image = to.ordered(x, IMAGE)
    channels, outputs, *size = node.weight.shape
    groups = node.groups
    extent = [d * (k - 1) + 1 + more for d, k, more in zip(node.dilation, size, node.output_padding, strict=True)]
    weight = np.zeros((groups, channels // groups, groups, outputs, *extent), np.float32)
    grouped = node.weight.reshape(groups, channels // groups, outputs, *size)
    rows, columns = (slice(0, d * (k - 1) + 1, d) for d, k in zip(node.dilation, size, strict=True))
    for group in range(groups):
        weight[group, :, group, :, rows, columns] = grouped[group]
    weight = weight.reshape(channels, groups * outputs, *extent).transpose(1, 2, 3, 0)
    whole = [(n - 1) * step + k for n, step, k in zip(image.shape[1:3], node.stride, extent, strict=True)]
    wanted = node.shape[2:]
    steps = zip(image.shape[1:3], wanted, node.stride, strict=True)
    is_same = any(node.padding) and all(n == -(-out // step) for n, out, step in steps)
    shape = (image.shape[0], *(wanted if is_same else whole), groups * outputs)
    output = to.emit(
        "TRANSPOSE_CONV",
        [to.integers(*shape), to.constant(weight), image, to.constant(node.bias)],
        shape,
        padding=SAME if is_same else VALID,
        strideH=node.stride[0],
        strideW=node.stride[1],
    )
    if not is_same and any(node.padding):
        shape = (image.shape[0], *wanted, groups * outputs)
        output = to.emit("SLICE", [output, to.integers(0, *node.padding, 0), to.integers(*shape)], shape)
    return Value(output, IMAGE)


class Binary:
    """Signs and binary layers. A sign is written where somebody reads it, as bits or as floats."""

    def __init__(
        self, to: Emitter, graph: g.BinaryGraph, chains: dict[str, Chain], value: Callable[[str], Value]
    ) -> None:
        self.to, self.graph, self.chains, self.value = to, graph, chains, value
        self.nodes = {node.name: node for node in graph.nodes}
        self.skipped = {name for chain in chains.values() for name in chain.between}
        self.packed: dict[str, Tensor] = {}  # signs that chains write

    def layer(self, node: g.BinaryLayer) -> Value:
        """What a layer on a sign computes; of one whose output stays bits these."""
        if isinstance(node, g.BinaryConv):
            return Value(self.conv(node), IMAGE)
        sign = self.nodes[node.inputs[0]]
        x = self.value(sign.inputs[0])
        rank = len(x.order)
        order = (*(axis for axis in x.order if axis != rank - 1), rank - 1)
        tensor = self.to.ordered(x, order)
        batch, *middle, channels = tensor.shape
        rows = self.to.reshape(tensor, (batch, 1, int(np.prod(middle)), channels))
        options = _options(channels, (1, 1), (1, 1), VALID, 0)
        inputs = [self.quantize(rows), self.filters(node.negative[:, :, None, None]), *self.scales(node), None]
        output = self.to.emit("LceBconv2d", inputs, (*rows.shape[:3], len(node.negative)), **options)
        return Value(self.to.reshape(output, (*tensor.shape[:-1], len(node.negative))), order)

    def conv(self, node: g.BinaryConv) -> Tensor:
        padding, sides = padding_of(self.graph, node)
        channels, outputs = node.negative.shape[1], len(node.negative)
        bits = self.padded_bits(node, sides) if any(sides) else self.bits(node.inputs[0])
        pad_values = int(padding == SAME and node.padding_value == 1)
        options = _options(channels, node.stride, node.dilation, padding, pad_values)
        shape = (bits.shape[0], *node.shape[2:])
        chain = self.chains.get(node.name)
        if chain is None:
            inputs = [bits, self.filters(node.negative), *self.scales(node), None]
            return self.to.emit("LceBconv2d", inputs, (*shape, outputs), **options)
        thresholds = self.to.constant(chain.thresholds, INT32)
        inputs = [bits, self.filters(chain.negative), None, None, thresholds]
        output = self.to.emit("LceBconv2d", inputs, (*shape, _words(outputs)), INT32, **options)
        for pool in chain.pools:
            output = self.max_pool(output, pool, pool_padding(self.graph, pool)[0])
        self.packed[chain.sign] = output
        return output

    def padded_bits(self, node: g.BinaryConv, sides: g.Sides) -> Tensor:
        """The sign of the layer's input, padded before it with what has the padding's sign."""
        if abs(node.padding_value) != 1:
            remedy = "has to keep the image's size" if node.padding_value == 0 else "leaves one bit"
            raise FsgError(
                f"cannot export {node.name} to TensorFlow Lite or C: padding a binary convolution with"
                f" {node.padding_value:g} {remedy}; train it with padding_value=1"
            )
        source = self.to.floats(self.value(self.nodes[node.inputs[0]].inputs[0]))
        return self.quantize(self.to.pad_image(self.to.ordered(source, IMAGE), sides, node.padding_value))

    def bits(self, name: str) -> Tensor:
        """A sign's bits, packed along the channels of an image."""
        if name not in self.packed:
            source = self.nodes[self.nodes[name].inputs[0]]
            if isinstance(source, g.MaxPool) and self.is_for_signs(source):
                image = self.to.ordered(self.value(source.inputs[0]), IMAGE)
                padding, sides = pool_padding(self.graph, source)
                if padding == VALID:
                    image = self.to.pad_image(image, sides, -1.0)
                self.packed[name] = self.max_pool(self.quantize(image), source, padding)
            else:
                self.packed[name] = self.quantize(self.to.ordered(self.value(source.name), IMAGE))
        return self.packed[name]

    def is_for_signs(self, node: g.Node) -> bool:
        """Whether nothing but signs read a value."""
        return all(isinstance(user, g.Sign) for user in self.graph.users(node.name))

    def floats(self, name: str) -> Value:
        """A sign as -1 and +1."""
        node = self.nodes[name]
        if len(node.shape) == 4:
            bits, order, channels = self.bits(name), IMAGE, node.shape[1]
        else:
            x = self.value(node.inputs[0])
            bits, order, channels = self.quantize(x.tensor), x.order, x.tensor.shape[-1]
        return Value(self.to.emit("LceDequantize", [bits], (*bits.shape[:-1], channels)), order)

    def quantize(self, x: Tensor) -> Tensor:
        return self.to.emit("LceQuantize", [x], (*x.shape[:-1], _words(x.shape[-1])), INT32)

    def max_pool(self, bits: Tensor, node: g.MaxPool, padding: int) -> Tensor:
        options: dict[str, Any] = {
            "padding": padding,
            "stride_height": node.stride[0],
            "stride_width": node.stride[1],
            "filter_height": node.kernel[0],
            "filter_width": node.kernel[1],
        }
        return self.to.emit("LceBMaxPool2d", [bits], (bits.shape[0], *node.shape[2:], bits.shape[3]), INT32, **options)

    def filters(self, negative: NDArray[np.bool_]) -> Tensor:
        """Weights [O, I, KH, KW] as bits [O, KH, KW, words]."""
        bits = np.packbits(negative.transpose(0, 2, 3, 1), axis=-1, bitorder="little")
        short = -bits.shape[-1] % 4
        words = np.ascontiguousarray(np.pad(bits, [(0, 0)] * 3 + [(0, short)])).view("<i4")
        return self.to.constant(words, INT32)

    def scales(self, node: g.BinaryLayer) -> list[Tensor]:
        return [self.to.constant(node.scale), self.to.constant(node.bias)]


def _options(channels: int, stride: g.Pair, dilation: g.Pair, padding: int, pad_values: int) -> dict[str, Any]:
    return {
        "channels_in": channels,
        "stride_height": stride[0],
        "stride_width": stride[1],
        "dilation_height_factor": dilation[0],
        "dilation_width_factor": dilation[1],
        "padding": padding,
        "pad_values": pad_values,
        "fused_activation_function": 0,
    }


def _words(channels: int) -> int:
    return -(-channels // 32)
