"""Rewrites of a list of operators for C: padding read beyond the image, signs in bytes, and other orders."""

from dataclasses import replace

import numpy as np

from fsg.export.formats.c.calls import SIGNS, data_of, pad_value, signs_bytes
from fsg.export.formats.tflite.lowered import ACTIVATIONS, SAME, Operator, Program, Tensor, without_unused
from fsg.export.graph import Sides

_NEVER_NEGATIVE = ("RELU", "RELU6", "LOGISTIC", "ABS", "EXP", "SQRT")


def dequantized(program: Program) -> Program:
    """Constants that are multiplied with their steps are floats that still know their steps."""
    new: dict[Tensor, Tensor] = {}
    operators = []
    for operator in program.operators:
        stored = operator.inputs[0]
        if (
            operator.code == "DEQUANTIZE"
            and stored is not None
            and stored.steps is not None
            and stored.data is not None
        ):
            axes = [-1 if axis == stored.axis else 1 for axis in range(len(stored.shape))]
            numbers = data_of(stored) * stored.steps.reshape(axes)
            numbers = numbers.astype(np.float32)
            new[operator.output] = Tensor(stored.shape, data=numbers, steps=stored.steps, axis=stored.axis)
            continue
        inputs = tuple(None if tensor is None else new.get(tensor, tensor) for tensor in operator.inputs)
        operators.append(replace(operator, inputs=inputs))
    return replace(program, operators=tuple(operators))


def orders(program: Program) -> list[Program]:
    """The same operators in a few orders, of which one may need less memory than the others."""
    producers = program.producers()

    def depth_first(last_first: bool) -> Program:
        found: dict[Operator, None] = {}
        waiting: list[tuple[Operator, bool]] = [(producers[program.result], False)]
        while waiting:
            operator, is_ready = waiting.pop()
            if operator in found:
                continue
            if is_ready:
                found[operator] = None
                continue
            waiting.append((operator, True))
            before = [producers[t] for t in operator.inputs if t is not None and t in producers]
            waiting += [(one, False) for one in (before if last_first else reversed(before))]
        return replace(program, operators=tuple(found))

    return [program, depth_first(False), depth_first(True)]


def in_bytes(program: Program) -> Program:
    """Signs are 8 a byte here, not 32 a word: rows of a window are then bytes behind one another."""
    new: dict[Tensor, Tensor] = {}
    operators = []
    for operator in program.operators:
        inputs = tuple(None if tensor is None else new.get(tensor, tensor) for tensor in operator.inputs)
        output = operator.output
        if operator.code.startswith("Lce") and output.kind != np.float32:
            source = inputs[0]
            assert source is not None
            size = source.shape[-1]  # of LceBMaxPool2d
            if operator.code == "LceQuantize":
                size = signs_bytes(source.shape[-1])
            elif operator.code == "LceBconv2d":
                size = signs_bytes(len(data_of(inputs[1])))
            new[output] = Tensor((*output.shape[:-1], size), SIGNS)
            output = new[output]
        operators.append(replace(operator, inputs=inputs, output=output))
    return _with(program, operators, new)


def padding_taken_in(program: Program) -> Program:
    """Windows read beyond the image instead of a padded copy: `sides` of an operator are rows above and below, columns
    left and right, and a binary convolution's `outside` is whether they are -1."""
    producers, users = program.producers(), program.users()
    new: list[Operator] = []
    signs: dict[Tensor, Tensor] = {}  # of an image
    padded: dict[Tensor, tuple[Tensor, Sides | None, bool]] = {}  # signs that are others, with these around
    for operator in program.operators:
        source = operator.inputs[0]
        pad = producers.get(source) if source is not None else None
        sides = _pad_of_image(pad)
        if operator.code == "LceQuantize":
            image, around, outside = source, None, False
            if pad is not None and sides is not None and all(map(_reads_bits, users.get(operator.output, []))):
                image, around, outside = pad.inputs[0], sides, pad_value(pad) < 0
            assert image is not None
            if image not in signs:
                signs[image] = Tensor((*image.shape[:-1], operator.output.shape[-1]), operator.output.kind)
                new.append(Operator("LceQuantize", (image,), signs[image]))
            padded[operator.output] = signs[image], around, outside
            continue
        if source in padded:
            bits, around, outside = padded[source]
            options = operator.options if around is None else {**operator.options, "sides": around, "outside": outside}
            operator = replace(operator, inputs=(bits, *operator.inputs[1:]), options=options)
        elif sides is not None and pad is not None and _takes_padding(operator, pad, sides, producers):
            options = {**operator.options, "sides": sides}
            operator = replace(operator, inputs=(pad.inputs[0], *operator.inputs[1:]), options=options)
        new.append(operator)
    alike = {old: bits for old, (bits, around, _) in padded.items() if around is None}
    return without_unused(_with(program, new, alike))


def _with(program: Program, operators: list[Operator], new: dict[Tensor, Tensor]) -> Program:
    """The program of other operators, in which tensors are others of the same value."""
    names = {new.get(tensor, tensor): name for tensor, name in program.names.items()}
    return replace(program, operators=tuple(operators), names=names)


def _pad_of_image(pad: Operator | None) -> Sides | None:
    if pad is None or pad.code not in ("PAD", "PADV2") or len(pad.output.shape) != 4:
        return None
    *batch, top, bottom, left, right, front, back = (int(n) for n in data_of(pad.inputs[1]).reshape(-1))
    return None if any(batch) or front or back else (top, bottom, left, right)


def _reads_bits(operator: Operator) -> bool:
    """Whether padding of its signs can be left to it, which has none."""
    return operator.code == "LceBconv2d" and operator.options["padding"] != SAME


def _takes_padding(operator: Operator, pad: Operator, sides: Sides, producers: dict[Tensor, Operator]) -> bool:
    """Whether a window's padding is what the pad adds."""
    if operator.options.get("padding") == SAME:
        return False
    if operator.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D"):
        return pad.code == "PAD"
    if operator.code != "MAX_POOL_2D":
        return False
    value = pad_value(pad)
    kernel = (operator.options["filterHeight"], operator.options["filterWidth"])
    before = producers.get(pad.inputs[0]) if pad.inputs[0] is not None else None
    is_least = value <= -3e38 or (value == 0 and before is not None and _is_never_negative(before))
    return is_least and max(sides[:2]) < kernel[0] and max(sides[2:]) < kernel[1]


def _is_never_negative(operator: Operator) -> bool:
    clamp = operator.options.get("fusedActivationFunction", 0)
    return operator.code in _NEVER_NEGATIVE or clamp in (ACTIVATIONS["RELU"], ACTIVATIONS["RELU6"])
