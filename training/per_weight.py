"""Fast and slow gradient generation (FSG), the per-weight variant."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.history import GradientHistory
from fsg.training.hypernet import FastNet, SlowNet
from fsg.training.layers import binary_layers
from fsg.training.rules import BETA2, GradientRule

CHUNK = 32768  # weights that pass the hypernetworks together; more would spill out of the caches
META_SAMPLE = 8192  # weights whose gradient teaches the hypernetworks in one step


class PerWeightFSG(GradientRule):
    """Fast and slow gradient generation (Chen et al., AAAI 2025, arXiv 2412.11777), per-weight variant.

    For every weight, with g the straight-through gradient of the previous minibatch, M the mean of the gradients before
    it (exponential, decay alpha) and V that of all squares (decay 0.999):

        slow = M (1 + centre(tanh(SlowNet(layer embedding, sign(M) last gradients / rms of the layer))))
        fast = g (1 + centre(tanh(FastNet(w / rms of the layer's weights))))
        look-ahead weight = w - lr * (alpha slow + (1 - alpha) fast) / sqrt(V)        (Adam's bias corrections apply)

    where centre subtracts the layer's mean. Seen along M, a history and its mirror image are one, and whether the
    newest gradient agrees with its predecessors is there to read. The forward pass uses the look-ahead weights, and
    after the backward pass they become the weights. The last layers of both nets start at zero, so the rule starts as
    Adam with beta1 = alpha (or SGD with momentum alpha) and departs from it as far as the hypernetworks learn to. They
    descend the loss at the look-ahead weights; that gradient is scaled by each layer's rms, so that lr does not scale
    their learning.

    Differs from the published code, in which the history of a weight lies out of its slow net's reach and the slow
    gradient does not enter the update.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        optimizer: str = "adam",
        alpha: float = 0.9,
        history: int = 5,
        meta_lr: float = 3e-3,
        hidden: int = 16,
        expand: int = 8,
        states: int = 4,
    ) -> None:
        super().__init__(model, lr=lr, optimizer=optimizer)
        if not 0 <= alpha < 1:
            raise FsgError(f"alpha is {alpha:g}: it must be at least 0 and below 1")
        if history < 1:
            raise FsgError(f"the history length is {history}: it must be at least 1")
        self.alpha = alpha
        self.layers = list(binary_layers(model).values())
        weights = [layer.weight for layer in self.layers]
        device = weights[0].device
        self.sizes = [weight.numel() for weight in weights]
        total = sum(self.sizes)
        self.layer_of = torch.arange(len(weights)).repeat_interleave(torch.tensor(self.sizes)).to(device)

        self.fast = FastNet(hidden, nn.Tanh).to(device)
        self.slow = SlowNet(len(weights), expand, states, kernel=4).to(device)
        nn.init.zeros_(self.fast[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.slow.mamba.out_proj.weight)
        hypernets = [*self.fast.parameters(), *self.slow.parameters()]
        self.meta_optimizer = torch.optim.Adam(hypernets, lr=meta_lr, eps=1e-16)

        self.history = GradientHistory(history, total).to(device)
        self.mean = torch.zeros(total, device=device)  # of the gradients before the newest
        self.square = torch.zeros(total, device=device)  # of all gradients, squared
        self.leaf: Tensor | None = None  # the look-ahead weights, between lookahead() and step()

    def _optimizer_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        latent = {id(layer.weight) for layer in binary_layers(model).values()}
        if not latent:
            raise FsgError("the model has no binary layer, so there is no gradient for FSG to learn")
        return [parameter for parameter in model.parameters() if id(parameter) not in latent]

    def _layer_mean(self, values: Tensor, layer: Tensor) -> Tensor:
        """The mean of the values that belong to the same layer, at each value: [n], [n] -> [n]."""
        sums = torch.zeros(len(self.layers), device=values.device).index_add(0, layer, values)
        return (sums / torch.bincount(layer, minlength=len(self.layers)))[layer]

    def _layer_rms(self, squares: Tensor) -> Tensor:
        """Root of the layer's mean of squares, at each weight; never zero."""
        return self._layer_mean(squares, self.layer_of).sqrt() + torch.finfo(torch.float32).tiny

    def _gate(self, logits: list[Tensor], layer: Tensor) -> Tensor:
        gate = torch.tanh(torch.cat(logits))
        return 1 + gate - self._layer_mean(gate, layer)

    def _direction(self, index: Tensor) -> Tensor:
        """What is subtracted, times lr, from the weights at `index` [n]; differentiable in the hypernetworks."""
        layer, count = self.layer_of[index], int(self.history.count)
        mean = self.mean[index]
        heading = torch.where(mean < 0, -1.0, 1.0) / self.gradient_rms[index]
        tokens = (self.history.ordered()[index] * heading[:, None]).split(CHUNK)
        scaled = (self.weights[index] / self.weight_rms[index]).split(CHUNK)
        slow = [self.slow(*chunk) for chunk in zip(tokens, layer.split(CHUNK), strict=True)]
        fast = [self.fast(chunk[:, None])[:, 0] for chunk in scaled]
        combined = self.alpha * mean * self._gate(slow, layer)
        combined = combined + (1 - self.alpha) * self.history.newest()[index] * self._gate(fast, layer)
        if not self.adaptive:
            return combined / (1 - self.alpha)
        root = (self.square[index] / (1 - BETA2**count)).sqrt() + 1e-8
        return combined / (1 - self.alpha**count) / root

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        self.weights = torch.cat([layer.weight.detach().flatten() for layer in self.layers])
        lookahead = self.weights
        count = int(self.history.count)
        if count:  # the first step only produces gradients
            mean_square = self.square / (1 - BETA2**count)
            self.gradient_rms = self._layer_rms(mean_square)
            self.weight_rms = self._layer_rms(self.weights.square())
            with torch.no_grad():
                lookahead = lookahead - self.lr * self._direction(torch.arange(len(lookahead), device=lookahead.device))
        self.leaf = lookahead.requires_grad_()
        for layer, part in zip(self.layers, self.leaf.split(self.sizes), strict=True):
            layer.lookahead = part.view_as(layer.weight)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.lookahead = None

    def gradients(self) -> list[Tensor]:
        ahead = [] if self.leaf is None or self.leaf.grad is None else [self.leaf.grad]
        return [*super().gradients(), *ahead]

    def step(self) -> None:
        if self.leaf is None or self.leaf.grad is None:
            raise RuntimeError("FSG.step() needs a backward pass of a loss computed inside FSG.lookahead()")
        gradient, count = self.leaf.grad, int(self.history.count)
        if count:
            self._learn(gradient)
        with torch.no_grad():
            for layer, part in zip(self.layers, self.leaf.split(self.sizes), strict=True):
                layer.weight.copy_(part.view_as(layer.weight))
            if count:
                self.mean.lerp_(self.history.newest(), 1 - self.alpha)
            self.square.lerp_(gradient.square(), 1 - BETA2)
            self.history.push(gradient)
        self.leaf = None
        super().step()

    def _learn(self, gradient: Tensor) -> None:
        """Moves the hypernetworks down the loss, whose gradient at the look-ahead weights is `gradient` [N].

        A few hundred parameters need no more than a sample of the weights; over the steps every weight has its turn.
        """
        stride = -(-len(gradient) // META_SAMPLE)
        index = torch.arange(int(self.history.count) % stride, len(gradient), stride, device=gradient.device)
        target = -gradient[index] / self.gradient_rms[index] / len(index)
        self._direction(index).backward(target)
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad()

    @property
    def hypernetwork_parameters(self) -> int:
        return sum(p.numel() for net in (self.fast, self.slow) for p in net.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "fast": self.fast.state_dict(),
            "slow": self.slow.state_dict(),
            "meta_optimizer": self.meta_optimizer.state_dict(),
            "history": self.history.state_dict(),
            "mean": self.mean,
            "square": self.square,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.fast.load_state_dict(state["fast"])
        self.slow.load_state_dict(state["slow"])
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])
        self.history.load_state_dict(state["history"])
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
