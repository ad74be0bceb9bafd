"""Cuts operators out of .tflite files, each as a model of its own."""

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.model.files import DAMAGE, read_bytes
from fsg.runtime.model.tflite import pack_tflite, read_tflite

PADDED = ("CONV_2D", "DEPTHWISE_CONV_2D")
CLAMPS = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")


class Cutter:
    """The operators of a .tflite file's main graph, to be cut out by their numbers in it.

    Raises:
        FsgError: no such file, not a .tflite file, or damaged content.
    """

    def __init__(self, path: str | Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        root, self._names = read_tflite(read_bytes(path))
        try:
            self._model = schema.ModelT.InitFromObj(root)
        except DAMAGE as error:
            raise FsgError(f"{path}: truncated or damaged ({error}); export or copy it again") from error
        self._graph = self._model.subgraphs[0]
        self._readers = Counter(int(t) for operator in self._graph.operators for t in operator.inputs)
        self._readers.update(map(int, self._graph.outputs))

    def joined(self, numbers: Sequence[int]) -> list[list[int]]:
        """Operators in the order in which they run, those together that XNNPACK computes as one.

        It pads the image of a convolution within that, and clamps what an operator computes at once.
        """
        groups: list[list[int]] = []
        for number in numbers:
            before = next((group for group in groups if self._joins(group[-1], number)), None)
            if before:
                before.append(number)
            else:
                groups.append([number])
        return groups

    def likeness(self, numbers: Sequence[int]) -> Hashable:
        """The same for operators that do the same work, on values of their own."""
        return tuple(map(self._likeness, numbers))

    def cut(self, numbers: Sequence[int]) -> bytes:
        """A .tflite file of these operators alone: what they read of others is the input, their constants stay."""
        from ai_edge_litert import schema_py_generated as schema

        old = [self._graph.operators[number] for number in numbers]
        used = dict.fromkeys(int(t) for operator in old for t in (*operator.inputs, *operator.outputs) if t >= 0)
        place = {-1: -1, **{t: n for n, t in enumerate(used)}}
        tensors, buffers = [], [schema.BufferT()]
        for i in used:
            tensor = schema.TensorT()
            vars(tensor).update(vars(self._graph.tensors[i]), buffer=0)
            if self._is_constant(self._graph.tensors[i]):
                tensor.buffer = len(buffers)
                buffer = schema.BufferT()
                buffer.data = self._model.buffers[self._graph.tensors[i].buffer].data
                buffers.append(buffer)
            tensors.append(tensor)
        operators, codes = [], []
        for code, one in enumerate(old):
            operator = schema.OperatorT()
            vars(operator).update(vars(one), opcodeIndex=code)
            operator.inputs, operator.outputs = [place[t] for t in one.inputs], [place[t] for t in one.outputs]
            operators.append(operator)
            codes.append(self._model.operatorCodes[one.opcodeIndex])
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = tensors, operators
        read = [n for one in operators for n in one.inputs]
        made = [n for one in operators for n in one.outputs]
        graph.inputs = [n for n in dict.fromkeys(read) if n >= 0 and n not in made and not tensors[n].buffer]
        graph.outputs = [n for n in made if n not in read]
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, codes, [graph], buffers
        return pack_tflite(model)

    def _joins(self, number: int, after: int) -> bool:
        first, second = self._graph.operators[number], self._graph.operators[after]
        kinds = self._names[first.opcodeIndex], self._names[second.opcodeIndex]
        if not len(second.inputs) or first.outputs[0] != second.inputs[0] or self._readers[int(first.outputs[0])] > 1:
            return False
        if kinds[0] == "PAD" and kinds[1] in PADDED:
            from ai_edge_litert.schema_py_generated import Padding

            return bool(second.builtinOptions.padding == Padding.VALID)
        return kinds[1] in CLAMPS

    def _likeness(self, number: int) -> Hashable:
        operator = self._graph.operators[number]
        tensors = [self._graph.tensors[i] if i >= 0 else None for i in (*operator.inputs, *operator.outputs)]
        shapes = tuple((tuple(_ints(t.shape)), t.type, self._is_constant(t)) if t else None for t in tensors)
        options = vars(operator.builtinOptions) if operator.builtinOptions else {}
        kind = self._names[operator.opcodeIndex]
        return kind, shapes, repr(sorted(options.items())), bytes(_ints(operator.customOptions))

    def _is_constant(self, tensor: Any) -> bool:
        data = self._model.buffers[tensor.buffer].data
        return data is not None and len(data) > 0


def _ints(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
