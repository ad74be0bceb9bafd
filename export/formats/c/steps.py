"""Operators of a .tflite file -> the calls that compute them, as much as can be in one loop over pixels."""

import numpy as np

from fsg.export.formats.c.calls import SIGNS, Post, Scratch, Step
from fsg.export.formats.c.moves import MOVES, strided
from fsg.export.formats.c.pixels import HEADS, elementwise
from fsg.export.formats.c.prepare import in_bytes, padding_taken_in
from fsg.export.formats.tflite.lowered import Operator, Program, Tensor


def steps_of(program: Program, *, watched: bool = False) -> tuple[list[Step], dict[Tensor, Tensor], dict[Tensor, str]]:
    """The calls in their order, of tensors that are others in another shape, which, and the nodes whose values tensors
    are; `watched` stores all of these."""
    program = in_bytes(padding_taken_in(program))
    steps, same = _Steps(program, watched).all()
    return steps, same, program.names


class _Steps:
    def __init__(self, program: Program, watched: bool) -> None:
        self.program, self.users = program, program.users()
        self.stored = {program.result, *(program.names if watched else ())}
        self.steps: list[Step] = []
        self.done: set[Operator] = set()
        self.known: set[Tensor] = {program.source}
        self.same: dict[Tensor, Tensor] = {}

    def all(self) -> tuple[list[Step], dict[Tensor, Tensor]]:
        for operator in self.program.operators:
            if operator in self.done:
                continue
            self.done.add(operator)
            self.add(operator)
            self.known.add(operator.output)
        return self.steps, self.same

    def add(self, operator: Operator) -> None:
        code, output, source = operator.code, operator.output, operator.inputs[0]
        if code == "RESHAPE":
            assert source is not None
            if source is self.program.source and output is self.program.result:
                self.steps.append(strided(source, 0, output, 0, *([int(np.prod(output.shape))], [1], [1])))
            else:
                self.same[output] = self.same.get(source, source)
            return
        step = HEADS[code](operator) if code in HEADS else self.loaded(operator)
        if step is None:
            self.steps += MOVES[code](operator)
            return
        self.steps.append(step)
        if output.kind != SIGNS:
            self.sweep(step, output)

    def sweep(self, step: Step, value: Tensor) -> None:
        """Adds to a step's post-operations those of the operators that can be done on the way."""
        while True:
            users = [user for user in self.users.get(value, []) if user not in self.done]
            bits = [user for user in users if user.code == "LceQuantize"]
            further: tuple[Operator, list[Post]] | None = None
            for user in users:
                more = None if user in bits else self.joins(user, value)
                if more is not None:
                    further = user, more
                    break
            others = [user for user in users if user not in bits and (further is None or user is not further[0])]
            if others or value in self.stored:
                step.posts.append(Post("STORE", tensor=value))
                self.known.add(value)
            for user in bits:
                step.posts.append(Post("PACK", tensor=user.output))
                self.done.add(user)
                self.known.add(user.output)
            if further is None:
                break
            self.done.add(further[0])
            step.posts += further[1]
            value = further[0].output

    def joins(self, user: Operator, value: Tensor) -> list[Post] | None:
        """The post-operations of an operator that reads a value at hand; None if it has to wait."""
        if user.output.shape != value.shape or user.inputs.count(value) != 1:
            return None
        ready = all(
            t is None or t is value or t.data is not None or self.same.get(t, t) in self.known for t in user.inputs
        )
        return self.posts(user, value) if ready else None

    def posts(self, operator: Operator, value: Tensor | None) -> list[Post] | None:
        """As `elementwise`; None too for numbers that are the image's: its address is no constant."""
        found = elementwise(operator, value)
        image = self.program.source
        alike = [post.tensor for post in found or () if post.tensor and post.how != "FSG_PER_VALUE"]
        return None if any(self.same.get(tensor, tensor) is image for tensor in alike) else found

    def loaded(self, operator: Operator) -> Step | None:
        """An operator by itself, of every value of a tensor; None for one of another kind."""
        code, source, output = operator.code, operator.inputs[0], operator.output
        if code == "LceQuantize":
            assert source is not None
            shape, posts = source.shape, [Post("LOAD", "FSG_PER_VALUE", source), Post("PACK", tensor=output)]
        elif code == "DEQUANTIZE" and source is self.program.source:
            shape, posts = output.shape, [Post("LOAD_PIXELS")]
        elif code == "LceDequantize":
            shape, posts = output.shape, [Post("LOAD_SIGNS", tensor=source)]
        else:
            found = self.posts(operator, source)
            if found is None:
                return None
            shape, posts = output.shape, [Post("LOAD", "FSG_PER_VALUE", source), *found]
        channels = shape[-1] if shape else 1
        pixels = int(np.prod(shape)) // channels
        return Step("fsg_elementwise", [str(pixels), str(channels), Scratch(4 * channels)], posts)
