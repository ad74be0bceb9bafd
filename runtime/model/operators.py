"""The operators of a .tflite file with what they cost: shapes, multiply-accumulates, bytes of weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.model.files import DAMAGE, model_format
from fsg.runtime.model.tflite import read_tflite

CHANNELS_IN_WORD = 32  # LCE packs so many signs into one int32


@dataclass(frozen=True)
class Operator:
    """One operator of a model, for the batch that the file is made for.

    Attributes:
        name: of the tensor it computes; `kind`: the operator, as `metadata.op_counts` names it.
        shape: of its output, rows, columns and channels last; packed channels are words of 32.
        binary_macs, float_macs, int8_macs: multiply-accumulates by the kind of arithmetic.
        weight_bytes: of its constants; `elements`: numbers that it reads and writes apart from those.
        window: rows and columns of a convolution's filter or a pooling's window.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    binary_macs: int
    float_macs: int
    int8_macs: int
    weight_bytes: int
    elements: int
    window: tuple[int, int] | None = field(default=None, kw_only=True)


def read_operators(path: str | Path) -> list[Operator]:
    """The operators of the main graph of a .tflite file, in the order in which they run.

    Raises:
        FsgError: no such file, not a .tflite file, or damaged content.
    """
    if model_format(path) != "tflite":
        raise FsgError(f"{path}: operators are counted in .tflite files only")
    model, names = read_tflite(path)
    try:
        graph = model.Subgraphs(0)
        return [_operator(model, graph, graph.Operators(i), names) for i in range(graph.OperatorsLength())]
    except DAMAGE as error:
        raise FsgError(f"{path}: truncated or damaged ({error}); export or copy it again") from error


def _operator(model: Any, graph: Any, operator: Any, names: Sequence[str]) -> Operator:
    from ai_edge_litert.schema_py_generated import TensorType

    kind = names[operator.OpcodeIndex()]
    inputs = [graph.Tensors(operator.Inputs(i)) for i in range(operator.InputsLength()) if operator.Inputs(i) >= 0]
    outputs = [graph.Tensors(operator.Outputs(i)) for i in range(operator.OutputsLength())]
    sizes = [model.Buffers(tensor.Buffer()).DataLength() for tensor in inputs]
    variable = [tensor for tensor, size in zip(inputs, sizes, strict=True) if not size]
    shape = _shape(outputs[0])
    macs = _macs(kind, operator, inputs, shape)
    is_int8 = len(inputs) > 1 and inputs[1].Type() == TensorType.INT8
    return Operator(
        name=outputs[0].Name().decode(),
        kind=kind,
        shape=shape[1:],
        binary_macs=macs if kind == "LceBconv2d" else 0,
        float_macs=macs if kind != "LceBconv2d" and not is_int8 else 0,
        int8_macs=macs if kind != "LceBconv2d" and is_int8 else 0,
        weight_bytes=sum(sizes),
        elements=sum(math.prod(_shape(tensor)) for tensor in (*variable, *outputs)),
        window=_window(kind, operator, inputs),
    )


def _window(kind: str, operator: Any, inputs: Sequence[Any]) -> tuple[int, int] | None:
    from ai_edge_litert.schema_py_generated import Pool2DOptions

    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "LceBconv2d"):
        _, rows, columns, _ = _shape(inputs[1])
        return rows, columns
    table = operator.BuiltinOptions()
    if kind not in ("MAX_POOL_2D", "AVERAGE_POOL_2D") or table is None:
        return None
    options = Pool2DOptions()
    options.Init(table.Bytes, table.Pos)
    return int(options.FilterHeight()), int(options.FilterWidth())


def _macs(kind: str, operator: Any, inputs: Sequence[Any], shape: tuple[int, ...]) -> int:
    """Products of a weight and an input value, those with padding too."""
    if kind in ("CONV_2D", "FULLY_CONNECTED"):  # filters are [O, KH, KW, I] and [O, I]
        return math.prod(shape[:-1]) * math.prod(_shape(inputs[1]))
    if kind == "DEPTHWISE_CONV_2D":  # [1, KH, KW, O]: every output channel reads one input channel
        return math.prod(shape) * math.prod(_shape(inputs[1])[1:3])
    if kind == "LceBconv2d":  # [O, KH, KW, words]
        outputs, *window, words = _shape(inputs[1])
        # Packed output has fewer columns than the filter has outputs.
        return math.prod(shape[:-1]) * outputs * math.prod(window) * _channels(operator, words)
    return 0


def _channels(operator: Any, words: int) -> int:
    """Input channels of a binary convolution; its filter shows them only in words."""
    from flatbuffers import flexbuffers

    options = flexbuffers.GetRoot(operator.CustomOptionsAsNumpy().tobytes()).AsMap
    channels = int(options["channels_in"].AsInt)
    return min(channels, words * CHANNELS_IN_WORD)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
