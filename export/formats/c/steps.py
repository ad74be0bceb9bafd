"""Operators of a .tflite file -> the calls that compute them, as much as can be in one loop over pixels."""

import numpy as np

from fsg.export.formats.c.calls import SIGNS, Post, Scratch, Step
from fsg.export.formats.c.moves import MOVES, strided
from fsg.export.formats.c.pixels import HEADS, elementwise
from fsg.export.formats.c.prepare import in_bytes, padding_taken_in
from fsg.export.formats.tflite.lowered import Operator, Program, Tensor


def steps_of(program: Program) -> tuple[list[Step], dict[Tensor, Tensor]]:
    """The calls in their order, and which tensors are others in another shape."""
    return _Steps(in_bytes(padding_taken_in(program))).all()


class _Steps:
    def __init__(self, program: Program) -> None:
        self.program, self.users = program, program.users()
        self.steps: list[Step] = []
        self.done: set[Operator] = set()
        self.known: set[Tensor] = {program.source}
        self.same: dict[Tensor, Tensor] = {}

    def all(self) -> tuple[list[Step], dict[Tensor, Tensor]]:
        for operator in self.program.operators:
            if operator in self.done:
                continue
            self.done.add(operator)
            before = len(self.steps)
            self.add(operator)
            for step in self.steps[before:]:
                self.known.update(step.written())
            self.known.add(operator.output)
        return self.steps, self.same

    def add(self, operator: Operator) -> None:
        code, output = operator.code, operator.output
        if code == "RESHAPE":
            source = operator.inputs[0]
            assert source is not None
            if source is self.program.source and output is self.program.result:
                self.steps.append(strided(source, 0, output, 0, *([int(np.prod(output.shape))], [1], [1])))
            else:
                self.same[output] = source
            return
        if code in HEADS:
            step, posts = HEADS[code](operator)
            if output.kind == SIGNS:
                step.posts = posts
                self.steps.append(step)
            else:
                self.sweep(step, posts, output)
            return
        found = elementwise(operator, operator.inputs[0])
        if found is not None or code in ("LceQuantize", "LceDequantize"):
            shape = output.shape
            if code == "LceQuantize":
                assert operator.inputs[0] is not None
                shape = operator.inputs[0].shape
            channels = shape[-1] if shape else 1
            pixels = int(np.prod(shape)) // channels
            step = Step("fsg_elementwise", [str(pixels), str(channels), Scratch(4 * channels)])
            load = "LOAD_SIGNS" if code == "LceDequantize" else "LOAD"
            posts = [Post(load, "FSG_PER_CHANNEL" if code == "LceDequantize" else "FSG_PER_VALUE", operator.inputs[0])]
            if code == "LceQuantize":
                step.posts = [*posts, Post("PACK", tensor=output)]
                self.steps.append(step)
                return
            self.sweep(step, [*posts, *(found or [])], output)
            return
        self.steps += MOVES[code](operator)

    def sweep(self, step: Step, posts: list[Post], value: Tensor) -> None:
        """Adds to a step's post-operations those of the operators that can be done on the way."""
        step.posts = posts
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
            if others or value is self.program.result:
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
        self.steps.append(step)

    def joins(self, user: Operator, value: Tensor) -> list[Post] | None:
        """The post-operations of an operator that reads a value at hand; None if it has to wait."""
        if user.output.shape != value.shape or [tensor for tensor in user.inputs].count(value) != 1:
            return None
        ready = all(t is None or t is value or t.data is not None or self.root(t) in self.known for t in user.inputs)
        return elementwise(user, value) if ready else None

    def root(self, tensor: Tensor) -> Tensor:
        while tensor in self.same:
            tensor = self.same[tensor]
        return tensor
