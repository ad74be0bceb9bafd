"""Gradient rules: how the latent weights of binary layers are updated. Every method has the same two verbs:

rule = FSG(model, lr=4e-3)
with rule.lookahead():
    loss = criterion(model(x), y)
loss.backward()
rule.step()
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fsg.training.config import check_name
from fsg.training.layers import binary_layers

BETA2 = 0.999  # decay of the squared gradients, as everywhere in Adam


class GradientRule:
    """Updates all parameters of a model; `lr` and `progress` may be assigned between steps.

    `optimizer` is "adam" (betas `beta1` and 0.999) or "sgd" (momentum `beta1`). `weight_decay` is the L2 penalty of all
    parameters but the latent weights of binary layers. `progress` is the share of the training that has passed, for
    methods that change with it.
    """

    progress: float = 0.0

    def __init__(
        self, model: nn.Module, *, lr: float, optimizer: str = "adam", beta1: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        check_name(optimizer, ("adam", "sgd"), "optimizer")
        binary = {id(layer.weight) for layer in binary_layers(model).values()}
        latent = [parameter for parameter in self._optimizer_parameters(model) if id(parameter) in binary]
        others = [parameter for parameter in self._optimizer_parameters(model) if id(parameter) not in binary]
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": weight_decay}]
        if latent:
            groups.append({"params": latent, "weight_decay": 0.0})
        self.optimizer: torch.optim.Optimizer
        if optimizer == "adam":
            self.optimizer = torch.optim.Adam(groups, lr=lr, betas=(beta1, BETA2))
        else:
            self.optimizer = torch.optim.SGD(groups, lr=lr, momentum=beta1)
        self.adaptive = optimizer == "adam"

    def _optimizer_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters that the ordinary optimizer updates."""
        return list(model.parameters())

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        """While it is entered, forward passes of the model use the look-ahead weights."""
        yield

    def gradients(self) -> list[Tensor]:
        """All gradients of the last backward pass, to be averaged in place over processes before `step`."""
        groups = self.optimizer.param_groups
        return [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]

    def step(self) -> None:
        """Applies the gradients of the last backward pass and clears them."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def hypernetwork_parameters(self) -> int:
        """How many parameters the method adds to training; none of them is ever exported."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to continue as if nothing had happened."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class STE(GradientRule):
    """Plain straight-through estimation: the quantiser's own gradient goes to an ordinary optimizer."""
