"""BinaryGraph -> .tflite with Larq Compute Engine's operators, without TensorFlow or a converter."""

from dataclasses import replace

import numpy as np

from fsg.export import graph as g
from fsg.export.formats.tflite.flat import to_flatbuffer
from fsg.export.formats.tflite.fuse import fuse
from fsg.export.formats.tflite.lowered import Program, Tensor, without_unused
from fsg.export.formats.tflite.nhwc import operators
from fsg.export.formats.tflite.packed import find_chains
from fsg.export.passes import (
    dense_as_convolution,
    dense_behind_image,
    float_where_input_is_float,
    fold_affine,
    sign_last,
    split_groups,
    zero_padding_at_every_pixel,
)


def to_tflite_direct(graph: g.BinaryGraph, batch: int = 1, *, integer_ends: bool = False) -> bytes:
    """The .tflite file of a graph: input "image" [batch, H, W, C], output "logits", of maps [batch, H, W, C] too.

    With `integer_ends` both are int8, of a graph of `int8.with_integer_ends`; of one of `passes.on_pixels` the image is
    uint8.

    Errors: FsgError for a binary convolution that LCE's operators cannot compute.
    """
    return to_flatbuffer(in_rows(lower(graph, batch, integer_ends=integer_ends)))


def in_rows(program: Program) -> Program:
    """What normalises pixels has numbers of a whole row: XNNPACK is slow on a few channels at a time."""
    if program.source.kind != np.uint8:
        return program
    whole, operators = {program.source}, []
    for operator in program.operators:
        source, *others = operator.inputs
        if operator.code == "DEQUANTIZE" and source is program.source:
            whole.add(operator.output)
        elif operator.code in ("MUL", "ADD") and source in whole and others[0] is not None:
            assert source is not None and others[0].data is not None
            row = np.broadcast_to(others[0].data, (1, 1, *source.shape[2:]))
            operator = replace(operator, inputs=(source, Tensor(row.shape, data=np.ascontiguousarray(row))))
            whole.add(operator.output)
        operators.append(operator)
    return replace(program, operators=tuple(operators))


def lower(graph: g.BinaryGraph, batch: int = 1, *, fused: bool = True, integer_ends: bool = False) -> Program:
    """The operators that the file has; without `fused` each by itself and with floats between them."""
    graph = float_where_input_is_float(sign_last(fold_affine(graph)))
    graph = zero_padding_at_every_pixel(split_groups(graph))
    graph = dense_as_convolution(dense_behind_image(graph))
    program = without_unused(operators(graph, batch, find_chains(graph) if fused else {}, integer_ends))
    return fuse(program) if fused else program
