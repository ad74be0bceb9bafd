"""What a training takes of memory at the very least, so that absurd settings end before anything big is made."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.runtime.machine import memory_bytes
from fsg.training.config import Config
from fsg.training.networks.layers import count_parameters


@contextmanager
def counting(model: nn.Module) -> Iterator[dict[str, int]]:
    """Notes, by layer, how many values a layer with parameters takes for one image, as it keeps them for its gradient.

    They are those of the last forward pass within the block.
    """
    counts: dict[str, int] = {}

    def note(name: str) -> object:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            counts[name] = inputs[0][0].numel() if inputs else 0

        return hook

    layers = {name: m for name, m in model.named_modules() if not list(m.children()) and list(m.parameters())}
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in layers.items()]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def require_memory(config: Config, model: nn.Module, values: int, batch: int, device: torch.device) -> None:
    """Raises FsgError where a training surely takes more memory than there is, naming the setting that takes most.

    `values` are what the layers keep for each of the `batch` images of a process.
    """
    weights = count_parameters(model)[0]
    size = {"bf16": 2, "float64": 8}.get(config.precision, 4)
    needs = {"--batch-size": batch * values * size}
    if config.method == "fsg" and config.slow:
        needs["--history"] = config.history * weights * 4
    if config.method == "fsg" and config.variant == "per-weight" and config.nonlinearity != "none":
        needs["--hidden"] = config.hidden * weights * 4  # what the fast net makes of all weights at once
    there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else memory_bytes()
    if sum(needs.values()) > there:
        option = max(needs, key=lambda name: needs[name])
        raise FsgError(
            f"this takes more than {sum(needs.values()) / 1e9:,.0f} GB of memory, and there are {there / 1e9:.0f}:"
            f" lower {option}, or take smaller images or a smaller --model"
        )
