"""Rewrites of a list of operators for C: padding read beyond the image, signs in bytes, and other orders."""

from dataclasses import replace

import numpy as np

from fsg.export.formats.c.calls import SIGNS, data_of, signs_bytes
from fsg.export.formats.tflite.lowered import SAME, Operator, Program, Tensor, without_unused
from fsg.export.graph import Sides


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
    return replace(program, operators=tuple(operators))


def padding_taken_in(program: Program) -> Program:
    """Windows read beyond the image instead of a padded copy: `sides` of an operator are rows above and below, columns
    left and right, and a binary convolution's `outside` is whether they are -1."""
    producers, users = program.producers(), program.users()
    quantized: dict[Tensor | None, Tensor] = {
        operator.inputs[0]: operator.output for operator in program.operators if operator.code == "LceQuantize"
    }
    new: list[Operator] = []
    renamed: dict[Tensor, tuple[Tensor, Sides, bool]] = {}
    for operator in program.operators:
        source = operator.inputs[0] if operator.inputs else None
        pad = producers.get(source) if source is not None else None
        sides = _pad_of_image(pad)
        if operator.code == "LceQuantize" and pad is not None and sides is not None:
            value = 0.0 if len(pad.inputs) < 3 else float(data_of(pad.inputs[2]))
            readers = users.get(operator.output, [])
            if all(user.code == "LceBconv2d" for user in readers) and operator.output is not program.result:
                image = pad.inputs[0]
                assert image is not None
                bits = quantized.get(image)
                if bits is None or image in renamed:
                    bits = Tensor((*image.shape[:-1], operator.output.shape[-1]), operator.output.kind)
                    new.append(Operator("LceQuantize", (image,), bits))
                elif not any(known.output is bits for known in new):
                    new.append(producers[bits])
                quantized[image] = bits
                renamed[operator.output] = (bits, sides, value < 0)
                continue
        if operator.code == "LceBconv2d" and source in renamed:
            bits, sides, outside = renamed[source]
            options = {**operator.options, "sides": sides, "outside": outside}
            operator = replace(operator, inputs=(bits, *operator.inputs[1:]), options=options)
        elif sides is not None and pad is not None and _takes_padding(operator, pad):
            options = {**operator.options, "sides": sides}
            operator = replace(operator, inputs=(pad.inputs[0], *operator.inputs[1:]), options=options)
        if not any(known is operator for known in new):
            new.append(operator)
    return without_unused(replace(program, operators=tuple(new)))


def _pad_of_image(pad: Operator | None) -> Sides | None:
    if pad is None or pad.code not in ("PAD", "PADV2") or len(pad.output.shape) != 4:
        return None
    amounts = pad.inputs[1]
    assert amounts is not None and amounts.data is not None
    (*batch, top, bottom, left, right, front, back) = (int(n) for n in amounts.data.reshape(-1))
    return None if any(batch) or front or back else (top, bottom, left, right)


def _takes_padding(operator: Operator, pad: Operator) -> bool:
    """Whether a window's padding is what the pad adds."""
    if operator.options.get("padding") == SAME:
        return False
    if operator.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D"):
        return pad.code == "PAD"
    if operator.code != "MAX_POOL_2D":
        return False
    sides = _pad_of_image(pad)
    assert sides is not None
    value = 0.0 if pad.code == "PAD" else float(data_of(pad.inputs[2]))
    kernel = (operator.options["filterHeight"], operator.options["filterWidth"])
    least = value <= -3e38 or value == 0  # with 0 only behind what is never less
    return least and max(sides[:2]) < kernel[0] and max(sides[2:]) < kernel[1]
