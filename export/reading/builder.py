"""A graph as it is read: values of the forward pass, and the nodes that they become."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.passes import remove_unused
from fsg.export.reference import compute

BATCH = 2  # images in the trial that finds the shapes: what is 1 in a graph is this then


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image: the node that gives it, and its shape for one image."""

    node: str
    shape: tuple[int, ...]


class Builder:
    """Collects the nodes of a graph, one step of the forward pass after the other.

    `what` is what people call the step that is being read, for errors; `result` is the shape for one image that it has,
    or a list of them.
    """

    def __init__(self, image: str, shape: tuple[int, ...]) -> None:
        self.nodes: list[g.Node] = [g.Input(name=image, shape=(1, *shape))]
        self.kinds: dict[str, g.Node] = {image: self.nodes[0]}
        self.what = ""
        self.result: Any = ()
        self._step = ""

    @property
    def image(self) -> Value:
        return Value(self.nodes[0].name, self.nodes[0].shape)

    def begin(self, step: str, what: str) -> None:
        """What is added from here on belongs to a step of this name."""
        self._step, self.what, self.result = step, what, ()

    def refuse(self, why: str) -> FsgError:
        return FsgError(f"cannot export {self.what}: {why}")

    def add(self, kind: type[g.Node], *inputs: Value, part: str = "", **settings: Any) -> Value:
        """A new node of these inputs, named like its step, or as a part of it.

        Its shape is found by running it, unless it is among the settings.
        """
        if kind is g.Elementwise:  # the same again is the same
            wanted = (tuple(value.node for value in inputs), settings["operator"], settings["settings"])
            for node in self.nodes:
                if isinstance(node, g.Elementwise) and (node.inputs, node.operator, node.settings) == wanted:
                    return Value(node.name, node.shape)
        base = name = f"{self._step}.{part}" if part else self._step
        count = 1
        while name in self.kinds:
            count += 1
            name = f"{base}.{count}"
        shape = settings.pop("shape", None)
        node = kind(name=name, inputs=tuple(value.node for value in inputs), shape=shape or (), **settings)
        if shape is None:
            zeros = [np.zeros(value.shape, np.float32) for value in inputs]
            with np.errstate(all="ignore"):
                node = replace(node, shape=compute(node, zeros).shape)
        self.nodes.append(node)
        self.kinds[name] = node
        return Value(name, node.shape)

    def constant(self, value: Any) -> Value:
        """A tensor that no image changes, as a value."""
        array = np.asarray(value, np.float32)
        return self.add(g.Constant, part="constant", value=array, shape=array.shape)

    def finish(self, result: Value) -> g.BinaryGraph:
        """The graph whose result that is; what it does not depend on is left out."""
        last = self.kinds[result.node]
        return remove_unused(g.BinaryGraph((*(node for node in self.nodes if node is not last), last)))
