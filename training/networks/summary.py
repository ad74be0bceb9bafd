"""Per-layer figures of a model: shapes, parameters by precision, memory, multiply-accumulates by precision."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fsg.runtime.tables import LayerSummary, summary_table
from fsg.training.networks.binarize import float_layers
from fsg.training.networks.layers import BinaryLayer

if TYPE_CHECKING:
    from rich.table import Table


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


def model_table(model: nn.Module, shape: tuple[int, int, int]) -> "Table":
    """What `summarize` finds, for people."""
    return summary_table(summarize(model, shape))
