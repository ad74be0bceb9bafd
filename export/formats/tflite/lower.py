"""The rewrites after which a graph is in TensorFlow Lite's own terms."""

from fsg import FsgError
from fsg.export.elementwise import OPERATORS
from fsg.export.graph import (
    Affine,
    Arithmetic,
    AveragePool,
    BinaryConv,
    BinaryDense,
    BinaryGraph,
    Concat,
    Conv,
    Dense,
    Elementwise,
    Input,
    MaxPool,
    Node,
    Pad,
    Reduce,
    Reshape,
    Sign,
)
from fsg.export.passes import (
    dense_as_convolution,
    float_where_input_is_float,
    pad_before_pool,
    pad_before_sign,
)

KNOWN = (Input, Sign, Conv, BinaryConv, Pad, MaxPool, AveragePool)
"""What is spelled for LCE's converter in a way that it is known to understand, whatever the settings."""


def is_known(node: Node) -> bool:
    """Whether LCE's converter is known to be right for a node."""
    match node:
        case Arithmetic():
            return node.operator == "add"
        case Concat():
            return node.axis == 1 and len(node.shape) in (2, 4)
        case Reduce():
            return node.operator == "mean" and node.axes == (2, 3)
        case Dense() | BinaryDense():
            return len(node.shape) == 2
        case Affine():
            return len(node.shape) in (2, 4)
        case Reshape():
            return len(node.shape) == 2 or node.shape[2:] == (1, 1)
        case Elementwise():
            return OPERATORS[node.operator].tensorflow is not None
    return isinstance(node, KNOWN)


def lower(graph: BinaryGraph) -> BinaryGraph:
    """The rewrites after which the converter understands every node, and as what it is."""
    for node in graph.nodes:
        if not is_known(node):
            raise FsgError(f"cannot export {node.name} to TensorFlow Lite: LCE's converter is not used for such a step")
    graph = float_where_input_is_float(graph)
    for node in graph.nodes:
        if isinstance(node, BinaryConv) and node.groups > 1:
            raise FsgError(
                f"cannot export {node.name} to TensorFlow Lite: LCE has no binary convolution in {node.groups} groups;"
                " train it with groups=1"
            )
    return pad_before_sign(pad_before_pool(dense_as_convolution(graph)))
