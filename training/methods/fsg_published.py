"""Fast and slow gradient generation (FSG) as it was published, the measure for every other variant."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.methods.base import BETA2, LookaheadRule
from fsg.training.methods.history import GradientHistory
from fsg.training.methods.hypernet import NONLINEARITIES, FastNet, SlowNet
from fsg.training.networks.quantizers import dorefa, dorefa_level, dorefa_slope
from fsg.training.registry import check_name

EPS = 1e-8  # stands beside the root of Adam's uncorrected squares


@dataclass(frozen=True)
class Generated:
    """What the hypernetworks make of the stored gradients: per binary layer a tensor in the shape of its weights.

    `slope` is that of the quantiser; `weight` the look-ahead weights.
    """

    fast: list[Tensor]
    slow: list[Tensor]
    slope: list[Tensor]
    weight: list[Tensor]


class ReferenceFSG(LookaheadRule):
    """Fast and slow gradient generation (Chen et al., AAAI 2025, arXiv 2412.11777), as its published code has it.

    For every binary layer, with G the gradient of the previous minibatch with respect to the layer's binary weights, p
    what its quantiser rounded then (from 0 to 1), W its latent weights and k the quantiser's slope at W:

        fast = G FastNet(p)
        slow = Mamba([layer embedding, the last gradients of the whole layer, flat, oldest first]) at G's tokens
        look-ahead weight = W - lr (alpha slow + (1 - alpha) k fast)
        look-ahead bias = b - lr (Adam's direction in the previous step)

    The forward pass uses the look-ahead weights and biases. Both hypernetworks descend its loss by Adam, at their own
    constant rates. The latent weights then move by Adam along k fast, in which the slow gradient has no part;
    all other parameters move by the same Adam along their own gradients. Its direction after n steps is
    sqrt(1 - 0.999^n) / (1 - beta1^n) M / (sqrt(V) + 1e-8). The first step only stores its gradients.

    `history` counts the gradients that the slow net sees, the newest included; 0 means the same as 1. Without `slow`
    the slow gradient is zero, without `embedding` its sequence starts with the gradients. Tensors stay in the type of
    the model's weights. Errors: FsgError for settings out of range, another optimizer than "adam", another `beta2` than
    0.999, a model without binary layers or with another quantiser than "dorefa".
    """

    lends = "binary"

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        optimizer: str = "adam",
        beta1: float = 0.9,
        beta2: float = BETA2,
        weight_decay: float = 0.0,
        alpha: float = 0.9,
        history: int = 5,
        slow: bool = True,
        embedding: bool = True,
        fast_lr: float = 1e-2,
        slow_lr: float = 1e-3,
        hidden: int = 100,
        nonlinearity: str = "none",
        expand: int = 100,
        d_state: int = 16,
        d_conv: int = 8,
    ) -> None:
        if optimizer != "adam":
            raise FsgError(f"the reference variant of FSG is defined with Adam, not {optimizer}: use optimizer adam")
        if beta2 != BETA2:
            raise FsgError(f"the reference variant of FSG is defined with beta2 {BETA2}, not {beta2:g}: leave it away")
        if not 0 <= alpha <= 1:
            raise FsgError(f"alpha is {alpha:g}: it must be from 0 to 1")
        if history < 0:
            raise FsgError(f"the history length is {history}: it must be at least 0")
        activation = NONLINEARITIES[check_name(nonlinearity, NONLINEARITIES, "nonlinearity")]
        super().__init__(model, lr=lr, beta1=beta1, weight_decay=weight_decay)
        self.require_quantizer("dorefa")
        self.alpha = alpha
        self.embedding = embedding
        weights = [layer.weight for layer in self.layers]
        biases = [getattr(layer, "bias", None) for layer in self.layers]
        self.biases: list[nn.Parameter] = [bias for bias in biases if bias is not None]

        self.fast = FastNet(hidden, activation).to(weights[0])
        groups = [{"params": list(self.fast.parameters()), "lr": fast_lr}]
        self.slow: SlowNet | None = None
        if slow:
            embeddings = len(weights) if embedding else 0
            self.slow = SlowNet(embeddings, expand, d_state, d_conv).to(weights[0])
            groups.append({"params": list(self.slow.parameters()), "lr": slow_lr})
        self.meta_optimizer = torch.optim.Adam(groups, eps=EPS)

        self.history = GradientHistory(max(history, 1), sum(self.sizes)).to(weights[0])
        self.levels = weights[0].new_zeros(sum(self.sizes))  # p of the previous forward pass, all layers flat
        self.bias_directions = [torch.zeros_like(bias) for bias in self.biases]
        # Between lookahead() and step():
        self.generated: Generated | None = None  # from the second step on
        self.binary: Tensor | None = None  # the binary weights, all layers flat, as a function of the hypernetworks

    def _optimizer_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return list(model.parameters())  # Adam moves the latent weights too

    def _slow_gradients(self) -> Tensor:
        """[N]; the layers' sequences are one batch for the slow net."""
        if self.slow is None:
            return torch.zeros_like(self.levels)
        tokens = [part.flatten() for part in self.history.stored().split(self.sizes, dim=1)]
        if self.embedding:
            embeddings = self.slow.layer_embedding.weight
            tokens = [torch.cat(pair) for pair in zip(embeddings, tokens, strict=True)]
        return torch.cat(self.slow.mamba.sequences(tokens, self.sizes))

    def _generate(self) -> Generated:
        """The gradients and look-ahead weights that follow from the stored gradients, by the present hypernetworks."""
        fast = self.split(self.history.newest() * self.fast(self.levels[:, None])[:, 0])
        slow = self.split(self._slow_gradients())
        slopes, ahead = [], []
        for layer, fast_one, slow_one in zip(self.layers, fast, slow, strict=True):
            weight = layer.weight.detach()
            slopes.append(dorefa_slope(weight))
            ahead.append(weight - self.lr * (self.alpha * slow_one + (1 - self.alpha) * slopes[-1] * fast_one))
        return Generated(fast, slow, slopes, ahead)

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        weights = [layer.weight.detach() for layer in self.layers]
        self.generated = None
        if self.history.count:
            self.generated = self._generate()
            weights = self.generated.weight
        self.binary = self.join([dorefa(weight) for weight in weights])
        own = [bias.data for bias in self.biases]
        for bias, direction in zip(self.biases, self.bias_directions, strict=True):
            bias.data = bias.data - self.lr * direction
        try:
            with self.lend(self.binary):
                yield
        finally:
            for bias, data in zip(self.biases, own, strict=True):
                bias.data = data

    def step(self) -> None:
        _, gradient = self.returned()
        used = self.generated.weight if self.generated else [layer.weight for layer in self.layers]
        self.levels = self.join([dorefa_level(weight.detach()) for weight in used])
        if self.generated and self.binary is not None:
            self.binary.backward(gradient)
            self.meta_optimizer.step()
            self.meta_optimizer.zero_grad()
            self._update(self.generated)
        else:
            raw = [bias.grad for bias in self.biases]
            self.bias_directions = [
                torch.zeros_like(b) if g is None else g for b, g in zip(self.biases, raw, strict=True)
            ]
        self.history.push(gradient)
        self.generated = self.binary = self.leaf = None
        self.optimizer.zero_grad()

    def _update(self, generated: Generated) -> None:
        """Moves latent weights along k fast, and everything else along its gradient."""
        for layer, slope, fast in zip(self.layers, generated.slope, generated.fast, strict=True):
            layer.weight.grad = slope * fast.detach()
        for group in self.optimizer.param_groups:
            group["eps"] = EPS / math.sqrt(1 - BETA2 ** int(self.history.count))  # torch corrects the root before it
        self.optimizer.step()
        self.bias_directions = [self.adam_direction(bias) for bias in self.biases]

    def adam_direction(self, parameter: Tensor) -> Tensor:
        """What the last step subtracted from a parameter, times lr; zero where it had no gradient yet."""
        state = self.optimizer.state.get(parameter)
        if not state:
            return torch.zeros_like(parameter)
        beta1, beta2 = self.optimizer.param_groups[0]["betas"]
        steps = int(state["step"])
        correction = math.sqrt(1 - beta2**steps) / (1 - beta1**steps)
        return correction * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + EPS)

    @property
    def hypernetwork_parameters(self) -> int:
        return sum(p.numel() for group in self.meta_optimizer.param_groups for p in group["params"])

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "fast": self.fast.state_dict(),
            "slow": self.slow.state_dict() if self.slow else None,
            "meta_optimizer": self.meta_optimizer.state_dict(),
            "history": self.history.state_dict(),
            "levels": self.levels,
            "bias_directions": self.bias_directions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.fast.load_state_dict(state["fast"])
        if self.slow:
            self.slow.load_state_dict(state["slow"])
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])
        self.history.load_state_dict(state["history"])
        self.levels.copy_(state["levels"])
        for direction, saved in zip(self.bias_directions, state["bias_directions"], strict=True):
            direction.copy_(saved)
