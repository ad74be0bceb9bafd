"""The rewrites after which a graph is in TensorFlow Lite's own terms."""

from fsg import FsgError
from fsg.export.graph import BinaryConv, BinaryGraph
from fsg.export.passes import (
    dense_as_convolution,
    float_where_input_is_float,
    pad_before_pool,
    pad_before_sign,
)


def lower(graph: BinaryGraph) -> BinaryGraph:
    """The rewrites after which the converter understands every node, and as what it is."""
    graph = float_where_input_is_float(graph)
    for node in graph.nodes:
        if isinstance(node, BinaryConv) and node.groups > 1:
            raise FsgError(
                f"cannot export {node.name} to TensorFlow Lite: LCE has no binary convolution in {node.groups} groups;"
                " train it with groups=1"
            )
    return pad_before_sign(pad_before_pool(dense_as_convolution(graph)))
