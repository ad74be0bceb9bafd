"""Cuts single operators out of .tflite files, each as a model of its own."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.model.files import DAMAGE, read_bytes
from fsg.runtime.model.tflite import pack_tflite, read_tflite


class Cutter:
    """The operators of a .tflite file's main graph, to be cut out by their number in it.

    Raises:
        FsgError: no such file, not a .tflite file, or damaged content.
    """

    def __init__(self, path: str | Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        root, _ = read_tflite(read_bytes(path))
        try:
            self._model = schema.ModelT.InitFromObj(root)
        except DAMAGE as error:
            raise FsgError(f"{path}: truncated or damaged ({error}); export or copy it again") from error
        self._graph = self._model.subgraphs[0]

    def likeness(self, number: int) -> Hashable:
        """The same for operators that do the same work, on values of their own."""
        operator = self._graph.operators[number]
        tensors = [self._graph.tensors[i] if i >= 0 else None for i in (*operator.inputs, *operator.outputs)]
        shapes = tuple((tuple(_ints(t.shape)), t.type, self._is_constant(t)) if t else None for t in tensors)
        options = vars(operator.builtinOptions) if operator.builtinOptions else {}
        return operator.opcodeIndex, shapes, repr(sorted(options.items())), bytes(_ints(operator.customOptions))

    def cut(self, number: int) -> bytes:
        """A .tflite file of that operator alone: what it reads of others is the input, its constants stay."""
        from ai_edge_litert import schema_py_generated as schema

        old = self._graph.operators[number]
        used = list(dict.fromkeys(i for i in (*old.inputs, *old.outputs) if i >= 0))
        place = {-1: -1, **{i: n for n, i in enumerate(used)}}
        tensors, buffers = [], [schema.BufferT()]
        for i in used:
            tensor = schema.TensorT()
            vars(tensor).update(vars(self._graph.tensors[i]))
            tensor.buffer = 0
            if self._is_constant(self._graph.tensors[i]):
                tensor.buffer = len(buffers)
                buffer = schema.BufferT()
                buffer.data = self._model.buffers[self._graph.tensors[i].buffer].data
                buffers.append(buffer)
            tensors.append(tensor)
        operator = schema.OperatorT()
        vars(operator).update(vars(old), opcodeIndex=0)
        operator.inputs, operator.outputs = [place[i] for i in old.inputs], [place[i] for i in old.outputs]
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = tensors, [operator]
        graph.inputs = [n for n in dict.fromkeys(operator.inputs) if n >= 0 and not tensors[n].buffer]
        graph.outputs = operator.outputs
        model = schema.ModelT()
        model.version, model.operatorCodes = 3, [self._model.operatorCodes[old.opcodeIndex]]
        model.subgraphs, model.buffers = [graph], buffers
        return pack_tflite(model)

    def _is_constant(self, tensor: Any) -> bool:
        data = self._model.buffers[tensor.buffer].data
        return data is not None and len(data) > 0


def _ints(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]
