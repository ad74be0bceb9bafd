"""What a BinaryGraph means, in plain NumPy: the reference for passes and writers."""

import numpy as np

from fsg.export import graph as g
from fsg.runtime.model.meaning import MEANINGS


def run_graph(graph: g.BinaryGraph, images: g.Floats) -> dict[str, g.Floats]:
    """Every node's value, by name, for normalised images [N, C, H, W]."""
    values = {graph.nodes[0].name: images}
    for node in graph.nodes[1:]:
        values[node.name] = compute(node, [values[name] for name in node.inputs])
    return values


def compute(node: g.Node, inputs: list[g.Floats]) -> g.Floats:
    """The value of a node, float32, from those of its inputs."""
    return np.asarray(MEANINGS[type(node).__name__](node, *inputs), np.float32)
