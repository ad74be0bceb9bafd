"""Computes a packed-sign file with NumPy: binary layers of signs on packed words, everything else in float32."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg.runtime.model.meaning import MEANINGS, Floats, per_channel
from fsg.runtime.model.packed import bits
from fsg.runtime.model.packed.bits import Bits
from fsg.runtime.model.packed.read import PackedFile, PackedNode

BINARY = ("BinaryConv", "BinaryDense")
Value = Floats | Bits


class Interpreter:
    """A packed-sign file made ready: the weights of layers on signs are words of 64 bits, those of others numbers."""

    def __init__(self, file: PackedFile) -> None:
        self.nodes = file.nodes
        known = {node.name: node for node in self.nodes}
        self._axes = {node.inputs[0]: 1 if node.op == "BinaryConv" else -1 for node in self.nodes if node.op in BINARY}
        self._last = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        self._words: dict[str, bits.Words] = {}
        self._floats: dict[str, Any] = {}
        for node in self.nodes:
            if node.op in BINARY:
                negative = node.weights(known[node.inputs[0]].shape)
                if on_bits(node, known):
                    self._words[node.name] = _as_words(node, negative)
                else:
                    signs = np.where(negative, np.float32(-1), np.float32(1))
                    self._floats[node.name] = SimpleNamespace(**vars(node) | {"signs": lambda signs=signs: signs})

    def __call__(self, images: Floats) -> Floats:
        """The result [N, ...] of images [N, C, H, W]; a value is forgotten when nothing reads it any more."""
        values: dict[str, Value] = {}
        for i, node in enumerate(self.nodes):
            values[node.name] = self._compute(node, values, images)
            for name in {*node.inputs, node.name}:
                if self._last.get(name, i) <= i and i + 1 < len(self.nodes):
                    del values[name]
        result = _floats(values[self.nodes[-1].name])
        return np.repeat(result, len(images), 0) if len(result) == 1 else result  # a constant is there once

    def values(self, images: Floats) -> dict[str, Floats]:
        """Every node's value, by name."""
        values: dict[str, Value] = {}
        for node in self.nodes:
            values[node.name] = self._compute(node, values, images)
        return {name: _floats(value) for name, value in values.items()}

    def sums(self, node: PackedNode, x: Bits) -> NDArray[np.int32]:
        """The integers that a binary layer on signs scales."""
        weight = self._words[node.name]
        return bits.convolve(x, weight, node) if node.op == "BinaryConv" else bits.dense(x, weight)

    def _compute(self, node: PackedNode, values: dict[str, Value], images: Floats) -> Value:
        if node.op == "Input":
            return images
        inputs = [values[name] for name in node.inputs]
        with np.errstate(all="ignore"):
            if node.op == "Sign" and node.name in self._axes:
                return Bits(_floats(inputs[0]) < 0, self._axes[node.name])
            if node.name in self._words and isinstance(inputs[0], Bits):
                sums = self.sums(node, inputs[0]).astype(np.float32)
                if node.op == "BinaryDense":
                    return sums * node.scale + node.bias
                return sums * per_channel(node.scale, sums) + per_channel(node.bias, sums)
            plain = self._floats.get(node.name, node)
            return np.asarray(MEANINGS[node.op](plain, *map(_floats, inputs)), np.float32)


def on_bits(node: PackedNode, known: dict[str, PackedNode]) -> bool:
    """Whether a binary layer's sums are integers: its input is a sign, and its border a sign or nothing."""
    padding = getattr(node, "padding_value", 0.0) if any(getattr(node, "padding", ())) else 0.0
    return known[node.inputs[0]].op == "Sign" and padding in (-1.0, 0.0, 1.0)


def _as_words(node: PackedNode, negative: NDArray[np.bool_]) -> bits.Words:
    if node.op == "BinaryDense":
        return bits.pack(negative)
    grouped = negative.reshape(node.groups, -1, *negative.shape[1:])
    return bits.pack(np.moveaxis(grouped, 2, -1))


def _floats(value: Value) -> Floats:
    return value.signs() if isinstance(value, Bits) else value
