"""A list of operators -> the flatbuffer of a .tflite file."""

import hashlib
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.export.formats.tflite.lowered import Program, Tensor
from fsg.runtime.model.tflite import pack_tflite, read_tflite

OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "SLICE": "SliceOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "GATHER": "GatherOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions",
    "LOG_SOFTMAX": "LogSoftmaxOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "HARD_SWISH": "HardSwishOptions",
    "GELU": "GeluOptions",
    "EXP": "ExpOptions",
    "ABS": "AbsOptions",
    "SIGN": "SignOptions",
}
"""The tables of options of TFLite's schema, of the operators that have one."""


def to_flatbuffer(program: Program) -> bytes:
    """The .tflite file of a program: input "image", output "logits"."""
    content = _Writer(program).content()
    root, names = read_tflite(content)
    graph = root.Subgraphs(0)
    written = [names[graph.Operators(i).OpcodeIndex()] for i in range(graph.OperatorsLength())]
    if written != [operator.code for operator in program.operators]:
        raise FsgError(
            f"the .tflite file has the operators {written} instead of those of the model; nothing was exported."
            " Please report it with the model"
        )
    return content


class _Writer:
    def __init__(self, program: Program) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.program = program
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.places: dict[Tensor, int] = {}
        self.constants: dict[Any, int] = {}
        self.codes: dict[str, int] = {}

    def content(self) -> bytes:
        schema, program = self.schema, self.program
        graph, model, signature = schema.SubGraphT(), schema.ModelT(), schema.SignatureDefT()
        graph.name = "main"
        graph.inputs = [self.place(program.source, "image")]
        operators = [self.operator(operator) for operator in program.operators]
        graph.outputs = [self.places[program.result]]
        self.tensors[graph.outputs[0]].name = "logits"
        graph.tensors, graph.operators = self.tensors, operators
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [self.named("image", graph.inputs[0])]
        signature.outputs = [self.named("logits", graph.outputs[0])]
        model.version, model.description = 3, "fsg"
        model.operatorCodes = [self.code(name) for name in self.codes]
        model.subgraphs, model.buffers, model.signatureDefs = [graph], self.buffers, [signature]
        return pack_tflite(model)

    def named(self, name: str, index: int) -> Any:
        found = self.schema.TensorMapT()
        found.name, found.tensorIndex = name, index
        return found

    def place(self, tensor: Tensor | None, name: str = "") -> int:
        """A tensor's index in the file; equal constants have one. -1 for a missing one."""
        if tensor is None:
            return -1
        if tensor not in self.places:
            name = name or self.program.names.get(tensor, "")
            self.places[tensor] = self.add(tensor, name) if tensor.data is None else self.constant(tensor)
        return self.places[tensor]

    def constant(self, tensor: Tensor) -> int:
        assert tensor.data is not None
        content = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        key = hashlib.blake2b(content.data).digest()
        steps = b"" if tensor.steps is None else tensor.steps.tobytes()
        whole = (key, tensor.shape, tensor.kind, steps, tensor.axis, tensor.zero)
        if whole not in self.constants:
            if key not in self.constants:
                buffer = self.schema.BufferT()
                buffer.data = content
                self.constants[key] = len(self.buffers)
                self.buffers.append(buffer)
            self.constants[whole] = self.add(tensor, "", self.constants[key])
        return self.constants[whole]

    def add(self, tensor: Tensor, name: str, buffer: int = 0) -> int:
        types = self.schema.TensorType
        found = self.schema.TensorT()
        found.name = name or f"t{len(self.tensors)}"
        found.shape = np.array(tensor.shape, np.int32)
        found.type = {"float32": types.FLOAT32, "int32": types.INT32, "int8": types.INT8, "uint8": types.UINT8}[
            tensor.kind.name
        ]
        if tensor.steps is not None:
            found.quantization = self.schema.QuantizationParametersT()
            found.quantization.scale = tensor.steps
            found.quantization.zeroPoint = np.full(len(tensor.steps), tensor.zero, np.int64)
            found.quantization.quantizedDimension = tensor.axis
        found.buffer = buffer
        self.tensors.append(found)
        return len(self.tensors) - 1

    def operator(self, operator: Any) -> Any:
        schema = self.schema
        found = schema.OperatorT()
        found.opcodeIndex = self.codes.setdefault(operator.code, len(self.codes))
        found.inputs = [self.place(tensor) for tensor in operator.inputs]
        found.outputs = [self.place(operator.output)]
        if operator.code.startswith("Lce"):
            if operator.options:
                found.customOptions = np.frombuffer(_flexmap(operator.options), np.uint8)
        elif (kind := OPTIONS.get(operator.code)) is not None:
            found.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            found.builtinOptions = getattr(schema, f"{kind}T")()
            for name, value in operator.options.items():
                assert hasattr(found.builtinOptions, name), f"{operator.code} has no option {name}"
                setattr(found.builtinOptions, name, value)
        return found

    def code(self, name: str) -> Any:
        found = self.schema.OperatorCodeT()
        custom = name.startswith("Lce")
        number = self.schema.BuiltinOperator.CUSTOM if custom else getattr(self.schema.BuiltinOperator, name)
        found.version, found.builtinCode, found.deprecatedBuiltinCode = 1, number, min(number, 127)
        found.customCode = name if custom else None
        return found


def _flexmap(options: dict[str, int]) -> bytes:
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        for name, value in options.items():
            builder.Int(name, value)
    return bytes(builder.Finish())
