"""The layers of a packed-sign file with what they cost."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fsg.runtime.model.packed.interpret import BINARY, on_bits
from fsg.runtime.model.packed.read import PackedNode, read_packed
from fsg.runtime.model.packed.rules import RULES
from fsg.runtime.tables import LayerSummary, summary_table

if TYPE_CHECKING:
    from rich.table import Table


def file_table(path: Path) -> "Table":
    """Of a .fsg file, a line for each layer that holds parameters. Errors: FsgError for one that cannot be read."""
    nodes = read_packed(path).nodes
    known = {node.name: node for node in nodes}
    return summary_table([_summary(node, known) for node in nodes[1:] if RULES[node.op].tensors])


def _summary(node: PackedNode, known: dict[str, PackedNode]) -> LayerSummary:
    tensors = {name: getattr(node, name) for name in RULES[node.op].tensors}
    floats = sum(value.size for name, value in tensors.items() if name != "negative")
    weights = binary = macs = 0
    if node.op in BINARY:
        binary = weights = node.weights(known[node.inputs[0]].shape).size
    elif node.op in ("Conv", "Dense", "TransposedConv"):
        weights = node.weight.size
    if node.op == "TransposedConv":  # every number of the input is multiplied by the weights of its channel
        macs = math.prod(known[node.inputs[0]].shape) * weights // len(node.weight)
    elif weights:
        macs = math.prod(node.shape) * weights // len(node.bias)
    bitwise = node.op in BINARY and on_bits(node, known)
    return LayerSummary(
        name=node.name,
        type=node.op,
        output_shape=node.shape[1:],
        binary_parameters=binary,
        float_parameters=floats,
        memory_bytes=sum(value.nbytes for value in tensors.values()),
        binary_macs=macs if bitwise else 0,
        float_macs=0 if bitwise else macs,
    )
