"""Rewrites of a list of operators: the same values with less work."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fsg.export.formats.tflite.lowered import (
    ACTIVATIONS,
    SAME,
    VALID,
    Operator,
    Program,
    Tensor,
    place,
    without_unused,
)

CLAMP = "fusedActivationFunction"
CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
CLAMPING = {*CONVOLUTIONS, "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
"""Operators that do an activation on their way out."""


class _Known:
    """What rules may ask: who computes a tensor, and whether one operator alone reads it."""

    def __init__(self, program: Program) -> None:
        self.result, self.users = program.result, program.users()
        self.producers: dict[Tensor, Operator] = {}

    def producer(self, tensor: Tensor | None) -> Operator | None:
        return None if tensor is None else self.producers.get(tensor)

    def feeding(self, operator: Operator) -> Operator | None:
        """What computes an operator's first input, for nobody else."""
        source = operator.inputs[0]
        found = self.producer(source)
        if source is None or source is self.result or len(self.users.get(source, [])) != 1:
            return None
        return found


Rule = Callable[[Operator, _Known], Operator | Tensor | None]
"""What to write for an operator, computing the same output, or the tensor that equals it; None to leave it."""


def fuse(program: Program) -> Program:
    """All of them."""
    for rule in (_joined_reshapes, _reductions, _same_padding, _activations, _binary_activations):
        program = _rewritten(program, rule)
    return program


def _rewritten(program: Program, rule: Rule) -> Program:
    known, equal, operators = _Known(program), dict[Tensor, Tensor](), list[Operator]()
    for operator in program.operators:
        inputs = tuple(equal.get(tensor, tensor) if tensor is not None else None for tensor in operator.inputs)
        operator = replace(operator, inputs=inputs)
        new = rule(operator, known)
        if isinstance(new, Tensor):
            equal[operator.output] = new
            continue
        operators.append(new or operator)
        known.producers[operator.output] = operators[-1]
    return without_unused(replace(program, operators=tuple(operators)))


def _joined_reshapes(operator: Operator, known: _Known) -> Operator | Tensor | None:
    """A reshape of a reshape is one, or none."""
    before = known.producer(operator.inputs[0])
    if operator.code != "RESHAPE" or before is None or before.code != "RESHAPE":
        return None
    source = before.inputs[0]
    if source is not None and source.shape == operator.output.shape and operator.output is not known.result:
        return source
    return replace(operator, inputs=(source, operator.inputs[1]))


def _reductions(operator: Operator, known: _Known) -> Operator | Tensor | None:
    """The axes that a reshape drops are dropped by the reduction before."""
    before = known.feeding(operator) if operator.code == "RESHAPE" else None
    if before is None or not before.options.get("keepDims"):
        return None
    axes = before.inputs[1]
    assert axes is not None and axes.data is not None
    if operator.output.shape != tuple(np.delete(before.output.shape, axes.data)):
        return None
    return replace(before, output=operator.output, options={**before.options, "keepDims": False})


def _same_padding(operator: Operator, known: _Known) -> Operator | Tensor | None:
    """A pad with zeros is left to the convolution behind it where it is TensorFlow's SAME padding."""
    pad, options = known.producer(operator.inputs[0]), operator.options
    if operator.code not in CONVOLUTIONS or options["padding"] != VALID or pad is None or pad.code != "PAD":
        return None
    image, amounts = pad.inputs
    weight = operator.inputs[1]
    assert image is not None and amounts is not None and amounts.data is not None and weight is not None
    before, after = amounts.data.T
    padding, _ = place(
        image.shape[1:3],
        weight.shape[1:3],
        (options["strideH"], options["strideW"]),
        (options["dilationHFactor"], options["dilationWFactor"]),
        (int(before[1]), int(before[2])),
        operator.output.shape[1:3],
    )
    if padding != SAME or before[0] or before[3] or after[0] or after[3]:
        return None
    return replace(operator, inputs=(image, *operator.inputs[1:]), options={**options, "padding": SAME})


def _activations(operator: Operator, known: _Known) -> Operator | Tensor | None:
    """Clamps become part of the operator before."""
    before = known.feeding(operator) if operator.code in ACTIVATIONS else None
    if before is None or before.code not in CLAMPING or before.options.get(CLAMP, 0):
        return None
    return replace(before, output=operator.output, options={**before.options, CLAMP: ACTIVATIONS[operator.code]})


def _binary_activations(operator: Operator, known: _Known) -> Operator | Tensor | None:
    """A binary convolution clamps its sums, then multiplies and adds."""
    before = known.feeding(operator)
    if before is None or before.code != "LceBconv2d" or before.output.kind != np.float32:
        return None
    bits, weights, scale, bias, _ = before.inputs
    assert scale is not None and scale.data is not None and bias is not None and bias.data is not None
    name = "fused_activation_function"
    if operator.code in ACTIVATIONS and not before.options[name]:
        is_plain = operator.code == "RELU" or (scale.data == 1).all()
        if (bias.data != 0).any() or (scale.data <= 0).any() or not is_plain:
            return None
        return replace(before, output=operator.output, options={**before.options, name: ACTIVATIONS[operator.code]})
    if operator.code not in ("MUL", "ADD") or operator.options.get(CLAMP, 0):
        return None
    other = operator.inputs[1]
    if other is None or other.data is None or other.data.ndim > 1:
        return None
    if operator.code == "MUL":
        values = [scale.data * other.data, bias.data * other.data]
    else:
        values = [scale.data, bias.data + other.data]
    constants = [Tensor(scale.shape, scale.kind, value.astype(np.float32)) for value in values]
    return replace(before, inputs=(bits, weights, *constants, None), output=operator.output)
