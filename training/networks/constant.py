"""Finds signs that say nothing: one whose input never changes sign gives its layer the same bits for every image."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fsg.training.networks.layers import BinaryActivation


def constant_signs(model: nn.Module, images: Tensor) -> dict[str, int]:
    """The binary activations all of whose bits are the same for normalised images [N, C, H, W], and that bit, +1 or -1.

    The model runs as in training, and is left as it was. One that is called several times counts if one call does.
    """
    found: dict[str, int] = {}

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        negative = inputs[0] < 0
        if negative.numel() > 1 and (negative.all() or not negative.any()):
            found[name] = -1 if negative.any() else 1

    with unchanged(model), ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, BinaryActivation):
                hook = module.register_forward_pre_hook(lambda module, inputs, name=name: watch(name, module, inputs))
                hooks.callback(hook.remove)
        model(images)
    return found


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Runs its block in training mode without gradients; statistics, mode and random numbers are as before."""
    training = model.training
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model.train()
            yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        model.train(training)


def constant_signs_told(found: dict[str, int]) -> str:
    """A warning in one line; "" where there are none."""
    if not found:
        return ""
    names = ", ".join(f"{name} ({bit:+d})" for name, bit in list(found.items())[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return (
        f"warning: every bit is the same in {names}{more}: what is read there never changes sign, so the layer behind"
        " it sees nothing; put a batch norm in front, or take away what cuts off one side"
    )
