"""Gradient rules: how the latent weights of binary layers are updated. Every method has the same two verbs:

rule = FSG(model, lr=4e-3)
with rule.lookahead():
    loss = criterion(model(x), y)
loss.backward()
rule.step()
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.networks.layers import binary_layers, grids, narrowable, sharpened
from fsg.training.networks.quantizers import ede_sharpness, narrowing_sharpness
from fsg.training.registry import check_name

BETA2 = 0.999  # decay of the mean squared gradients, as everywhere in Adam


class GradientRule:
    """Updates all parameters of a model; `lr`, `progress` and `steps` may be assigned between steps.

    `optimizer` is "adam" (betas `beta1` and `beta2`) or "sgd" (momentum `beta1`). `weight_decay` is the L2 penalty of
    all parameters but the latent weights of binary layers and the grids of integers. `progress` is the share of the
    training that has passed; the gradients of IR-Net's quantisers change with it, and what `plan` says. `steps` are
    those of the whole training, 0 where that is not known.
    """

    lends = ""
    """The attribute of BinaryLayer that takes what the rule lends for a forward pass, if it does."""

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        optimizer: str = "adam",
        beta1: float = 0.9,
        beta2: float = BETA2,
        weight_decay: float = 0.0,
    ) -> None:
        check_name(optimizer, ("adam", "sgd"), "optimizer")
        self.layers = list(binary_layers(model).values())
        free = {id(layer.weight) for layer in self.layers} | {id(parameter) for parameter in grids(model)}
        undecayed = [parameter for parameter in self._optimizer_parameters(model) if id(parameter) in free]
        others = [parameter for parameter in self._optimizer_parameters(model) if id(parameter) not in free]
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": weight_decay}]
        if undecayed:
            groups.append({"params": undecayed, "weight_decay": 0.0})
        self.optimizer: torch.optim.Optimizer
        if optimizer == "adam":
            self.optimizer = torch.optim.Adam(groups, lr=lr, betas=(beta1, beta2))
        else:
            self.optimizer = torch.optim.SGD(groups, lr=lr, momentum=beta1)
        self.adaptive = optimizer == "adam"
        self.sharpened, self.narrowable = sharpened(model), narrowable(model)
        self.ede_end = self.two_stages = 0.0
        self.progress = 0.0
        self.steps = 0

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

    @property
    def progress(self) -> float:
        return self._progress

    @progress.setter
    def progress(self, value: float) -> None:
        self._progress = value
        for module in self.sharpened:
            module.sharpness = ede_sharpness(value)
        for activation in self.narrowable:
            activation.narrowed = narrowing_sharpness(value, self.ede_end)
        for layer in self.layers:
            layer.unquantized = value < self.two_stages

    def plan(self, *, ede_end: float = 0.0, two_stages: float = 0.0) -> None:
        """What the network does in parts of the training, given as shares from 0 to below 1.

        In the last `ede_end` the polynomial gradient of activations is narrowed, see `narrowing_sharpness`. In the
        first `two_stages`, passes in training mode use latent weights as they are (Martinez et al. 2020, arXiv
        2003.11535); in evaluation mode the network is binary throughout. Errors: FsgError where there is nothing to
        narrow, or where the method computes the bits itself.
        """
        if ede_end and not self.narrowable:
            raise FsgError("--ede-end: the network has no BinaryActivation of polynomial gradient: leave it away")
        if two_stages and self.lends == "binary":
            raise FsgError(f"--two-stages: {type(self).__name__} trains bits from the first step: leave it away")
        self.ede_end, self.two_stages = ede_end, two_stages
        self.progress = self.progress

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


class LookaheadRule(GradientRule):
    """A rule that moves the latent weights itself: the forward passes compute with weights that it lends the layers.

    All binary layers' weights form one flat tensor, [N]. What is lent are latent weights, or with
    `lends = "binary"` the binary weights themselves. Raises FsgError for a model without binary layers.
    """

    lends = "lookahead"

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        optimizer: str = "adam",
        beta1: float = 0.9,
        beta2: float = BETA2,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(model, lr=lr, optimizer=optimizer, beta1=beta1, beta2=beta2, weight_decay=weight_decay)
        if not self.layers:
            raise FsgError("the model has no binary layer, so there is no gradient to learn")
        self.beta2 = beta2
        self.sizes = [layer.weight.numel() for layer in self.layers]
        self.leaf: Tensor | None = None  # the lent weights [N], between lookahead() and step()

    def _optimizer_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        latent = {id(layer.weight) for layer in self.layers}
        return [parameter for parameter in model.parameters() if id(parameter) not in latent]

    def require_quantizer(self, name: str) -> None:
        """Raises FsgError unless every binary layer has this weight quantiser."""
        for layer in self.layers:
            if layer.quantizer != name:
                raise FsgError(f"{type(self).__name__} is not defined for the quantiser {layer.quantizer}: use {name}")

    def split(self, flat: Tensor) -> list[Tensor]:
        """Values of all binary weights, [N] -> one tensor per layer, in the shape of its weights."""
        return [part.view(layer.weight.shape) for part, layer in zip(flat.split(self.sizes), self.layers, strict=True)]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""
        return torch.cat([tensor.flatten() for tensor in tensors])

    def latent(self) -> Tensor:
        """A copy of all latent weights, [N]."""
        return self.join([layer.weight.detach() for layer in self.layers])

    @contextmanager
    def lend(self, flat: Tensor) -> Iterator[None]:
        """While it is entered, the binary layers compute with the values of `flat` [N]."""
        self.leaf = flat.detach().requires_grad_()
        for layer, part in zip(self.layers, self.split(self.leaf), strict=True):
            setattr(layer, self.lends, part)
        try:
            yield
        finally:
            for layer in self.layers:
                setattr(layer, self.lends, None)

    def gradients(self) -> list[Tensor]:
        gradient = [] if self.leaf is None or self.leaf.grad is None else [self.leaf.grad]
        return [*super().gradients(), *gradient]

    def returned(self) -> tuple[Tensor, Tensor]:
        """The lent weights and the gradient of the last backward pass with respect to them, [N] each."""
        if self.leaf is None or self.leaf.grad is None:
            raise RuntimeError("step() needs a backward pass of a loss computed inside lookahead()")
        return self.leaf, self.leaf.grad

    @torch.no_grad()
    def move_to(self, flat: Tensor) -> None:
        """Makes `flat` [N] the latent weights, and forgets the lent ones."""
        for layer, part in zip(self.layers, self.split(flat), strict=True):
            layer.weight.copy_(part)
        self.leaf = None
