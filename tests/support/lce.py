"""Builds small .tflite files of LCE operators, and says in plain NumPy what they should compute."""

import functools

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, load_delegate
from flatbuffers import flexbuffers

from fsg.runtime.library import delegate_path

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
    np.dtype(np.bool_): schema.TensorType.BOOL,
}
OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "CONV_2D": "Conv2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
}


def flexmap(**options: int) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, value in options.items():
            builder.Int(name, value)
    return bytes(builder.Finish())


class Graph:
    """One subgraph, grown tensor by tensor and operator by operator."""

    def __init__(self):
        self.buffers = [schema.BufferT()]
        self.tensors = []
        self.codes = []
        self.operators = []

    def tensor(self, shape, dtype=np.float32, data=None, scale=None, zero_point=0) -> int:
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.tensors)}".encode()
        tensor.shape = list(shape)
        tensor.type = TYPES[np.dtype(dtype)]
        tensor.buffer = 0
        if data is not None:
            tensor.buffer = len(self.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, data) -> int:
        return self.tensor(data.shape, data.dtype, data)

    def operator(self, code, inputs, outputs) -> schema.OperatorT:
        custom = isinstance(code, str)
        entry = schema.OperatorCodeT()
        entry.version = 1
        entry.builtinCode = schema.BuiltinOperator.CUSTOM if custom else code
        entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)
        entry.customCode = code.encode() if custom else None
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        self.codes.append(entry)
        self.operators.append(operator)
        return operator

    def custom(self, name, inputs, outputs, options=b"") -> None:
        operator = self.operator(name, inputs, outputs)
        operator.customOptions = np.frombuffer(options, np.uint8) if options else None

    def builtin(self, name, inputs, shape, **options) -> int:
        """A builtin operator with one float output, by its name and the fields of its options."""
        output = self.tensor(shape)
        operator = self.operator(getattr(schema.BuiltinOperator, name), inputs, [output])
        kind = OPTIONS.get(name)
        if kind is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for field, value in options.items():
                setattr(operator.builtinOptions, field, value)
        return output

    def build(self, inputs, outputs) -> bytes:
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs, subgraph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version = 3
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [subgraph], self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    # The four LCE operators, each returning its output tensor.

    def quantize(self, source) -> int:
        *outer, channels = self.tensors[source].shape
        output = self.tensor([*outer, words(channels)], np.int32)
        self.custom("LceQuantize", [source], [output])
        return output

    def dequantize(self, source, channels, dtype=np.float32, scale=None, zero_point=0) -> int:
        shape = [*self.tensors[source].shape[:-1], channels]
        output = self.tensor(shape, dtype, scale=scale, zero_point=zero_point)
        self.custom("LceDequantize", [source], [output])
        return output

    def max_pool(self, source, window, stride, padding) -> int:
        batch, *size, depth = self.tensors[source].shape
        where = [axis_window(n, f, s, 1, padding)[0] for n, f, s in zip(size, window, stride, strict=True)]
        output = self.tensor([batch, *where, depth], np.int32)
        options = flexmap(padding=padding, **pairs("stride", stride), **pairs("filter", window))
        self.custom("LceBMaxPool2d", [source], [output], options)
        return output

    def conv(
        self,
        source,
        conv,
        multiplier=None,
        bias=None,
        thresholds=None,
        dtype=np.float32,
        scale=None,
        zero_point=0,
    ) -> int:
        batch, *size, _ = self.tensors[source].shape
        channels_out = len(conv.weights)
        packed = np.dtype(dtype) == np.int32
        depth = words(channels_out) if packed else channels_out
        output = self.tensor([batch, *conv.size(size), depth], dtype, scale=scale, zero_point=zero_point)
        constants = [None if v is None else self.constant(v) for v in (multiplier, bias, thresholds)]
        inputs = [source, self.constant(pack(conv.weights)), *(-1 if c is None else c for c in constants)]
        self.custom("LceBconv2d", inputs, [output], conv.options())
        return output


class Conv:
    """A binary convolution of +-1 `weights` OHWI; padding and activation are LCE's numbers."""

    def __init__(self, weights, stride=(1, 1), dilation=(1, 1), padding=1, pad_values=0, activation=0, groups=1):
        self.weights, self.stride, self.dilation = weights, stride, dilation
        self.padding, self.pad_values, self.activation, self.groups = padding, pad_values, activation, groups

    def options(self) -> bytes:
        return flexmap(
            channels_in=self.weights.shape[3] * self.groups,
            padding=self.padding,
            pad_values=self.pad_values,
            fused_activation_function=self.activation,
            stride_height=self.stride[0],
            stride_width=self.stride[1],
            dilation_height_factor=self.dilation[0],
            dilation_width_factor=self.dilation[1],
        )

    def windows(self, size):
        axes = zip(size, self.weights.shape[1:3], self.stride, self.dilation, strict=True)
        return [axis_window(*axis, self.padding) for axis in axes]

    def size(self, size) -> list[int]:
        return [out for out, _, _ in self.windows(size)]

    def dots(self, signs) -> np.ndarray:
        """Integer dot products [N, H, W, O] of +-1 `signs` [N, H, W, C]."""
        (height, top, bottom), (width, left, right) = self.windows(signs.shape[1:3])
        borders = [(0, 0), (top, bottom), (left, right), (0, 0)]
        signs = np.pad(signs.astype(np.int32), borders, constant_values=self.pad_values)
        total = np.zeros((len(signs), height, width, len(self.weights)), np.int32)
        for y, x in np.ndindex(self.weights.shape[1:3]):
            rows = y * self.dilation[0] + self.stride[0] * np.arange(height)
            columns = x * self.dilation[1] + self.stride[1] * np.arange(width)
            taps = np.split(signs[:, rows][:, :, columns], self.groups, axis=3)
            weights = np.split(self.weights[:, y, x].astype(np.int32), self.groups)
            total += np.concatenate([t @ w.T for t, w in zip(taps, weights, strict=True)], axis=3)
        return total

    def popcounts(self, signs) -> np.ndarray:
        return (np.prod(self.weights.shape[1:]) - self.dots(signs)) / 2

    def outputs(self, signs, multiplier, bias, scale=1.0, zero_point=0) -> np.ndarray:
        """In units of `scale` from `zero_point`, rounded as LCE does: its constants are those of 2 * popcount."""
        low, high = [(None, None), (0, None), (-1, 1), (0, 6)][self.activation]
        dots = self.dots(signs)
        if self.activation:
            dots = np.clip(dots, low, high)
        length = self.weights[0].size
        exact = np.float64(multiplier)
        slope = np.float32(-exact / scale)
        offset = np.float32((bias + exact * length) / scale + zero_point)
        return offset + slope * (length - dots).astype(np.float32)


def axis_window(size, window, stride, dilation, padding) -> tuple[int, int, int]:
    """Output length and the padding before and after, as TensorFlow defines them."""
    reach = (window - 1) * dilation + 1
    if padding == 1:
        return (size - reach) // stride + 1, 0, 0
    out = -(-size // stride)
    missing = max(0, (out - 1) * stride + reach - size)
    return out, missing // 2, missing - missing // 2


def pairs(name, values) -> dict[str, int]:
    return dict(zip((f"{name}_height", f"{name}_width"), values, strict=True))


def words(channels) -> int:
    return -(-channels // 32)


def pack(values, zero_point=0) -> np.ndarray:
    """Signs along the last axis as bits of int32 words, 1 for negative."""
    bits = np.asarray(values) < zero_point
    short = -bits.shape[-1] % 32
    bits = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, short)])
    return np.packbits(bits, axis=-1, bitorder="little").view(np.int32)


def unpack(packed, channels) -> np.ndarray:
    """+-1 from packed words."""
    bits = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=-1, bitorder="little")
    return 1 - 2 * bits[..., :channels].astype(np.int32)


def max_pool(signs, window, stride, padding) -> np.ndarray:
    axes = zip(signs.shape[1:3], window, stride, strict=True)
    (height, top, bottom), (width, left, right) = [axis_window(*axis, 1, padding) for axis in axes]
    signs = np.pad(signs, [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=-1)
    views = [
        signs[
            :,
            y : y + (height - 1) * stride[0] + 1 : stride[0],
            x : x + (width - 1) * stride[1] + 1 : stride[1],
        ]
        for y, x in np.ndindex(*window)
    ]
    return functools.reduce(np.maximum, views)


def round_half_away(values) -> np.ndarray:
    return np.trunc(values + np.copysign(np.float64(0.5), values))


def delegate(**options):
    return load_delegate(delegate_path(), options)


def interpret(model, kernels="auto", threads=1, delegate=None, **options) -> Interpreter:
    delegate = delegate or load_delegate(delegate_path(), {"kernels": kernels, **options})
    interpreter = Interpreter(model_content=model, experimental_delegates=[delegate], num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def run(model, *inputs, kernels="auto", **options) -> list[np.ndarray]:
    """The outputs of a stock interpreter with the delegate, its batch resized to that of the inputs."""
    interpreter = interpret(model, kernels, **options)
    details = interpreter.get_input_details()
    if any(tuple(d["shape"]) != i.shape for d, i in zip(details, inputs, strict=True)):
        for detail, value in zip(details, inputs, strict=True):
            interpreter.resize_tensor_input(detail["index"], value.shape)
        interpreter.allocate_tensors()
    for detail, value in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
