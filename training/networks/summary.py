"""Per-layer figures of a model: shapes, parameters by precision, memory, multiply-accumulates by precision."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fsg.runtime.tables import table
from fsg.training.networks.binarize import float_layers
from fsg.training.networks.layers import BinaryLayer

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LayerSummary:
    """One layer for a batch of one: parameter counts, bytes of its weights when packed, multiply-accumulates (MACs).

    MACs are binary where both the weights and the input are -1 or +1, so that XNOR and popcount can do them. `role`
    says why `binarize` left a layer float, else it is empty.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    binary_parameters: int
    float_parameters: int
    memory_bytes: int
    binary_macs: int
    float_macs: int
    role: str = ""


def summarize(model: nn.Module, shape: tuple[int, int, int]) -> list[LayerSummary]:
    """The layers of a model that hold parameters, in the order in which they run on an image of `shape` (C, H, W)."""
    rows: list[LayerSummary] = []
    roles = float_layers(model)

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            binary = module.weight.numel() if isinstance(module, BinaryLayer) else 0
            floats = sum(parameter.numel() for parameter in module.parameters()) - binary
            macs = 0
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # Every output needs one product per weight of its channel.
                macs = output.numel() * module.weight[0].numel()
            bitwise = binary > 0 and bool((inputs[0].abs() == 1).all())
            rows.append(
                LayerSummary(
                    name=name,
                    type=type(module).__name__,
                    output_shape=tuple(output.shape[1:]),
                    binary_parameters=binary,
                    float_parameters=floats,
                    memory_bytes=-(-binary // 8) + 4 * floats,
                    binary_macs=macs if bitwise else 0,
                    float_macs=0 if bitwise else macs,
                    role=roles.get(name, ""),
                )
            )

        return hook

    layers = {name: m for name, m in model.named_modules() if not list(m.children()) and list(m.parameters())}
    hooks = [module.register_forward_hook(record(name)) for name, module in layers.items()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.randn(1, *shape))
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    return rows


def summary_table(rows: list[LayerSummary]) -> "Table":
    """One line per layer and the totals; memory in bytes, MACs in thousands; why `binarize` left layers float."""
    figure_names = ("output", "1-bit params", "32-bit params", "memory B", "binary kMAC", "float kMAC")
    headings = ["layer", "type", *figure_names, *(["float because"] if any(row.role for row in rows) else [])]

    def figures(rows: list[LayerSummary]) -> list[str]:
        counts = ("binary_parameters", "float_parameters", "memory_bytes")
        macs = ("binary_macs", "float_macs")
        return [
            *(f"{sum(getattr(row, name) for row in rows):,}" for name in counts),
            *(f"{sum(getattr(row, name) for row in rows) / 1e3:,.1f}" for name in macs),
        ]

    cells = [[row.name, row.type, "x".join(map(str, row.output_shape)), *figures([row]), row.role] for row in rows]
    made = table(
        headings, (row[: len(headings)] for row in cells), left=("layer", "type", "float because"), wrap=("type",)
    )
    made.add_section()
    made.add_row("total", "", "", *figures(rows), style="bold")
    return made
