"""Fast and slow gradient generation (FSG), the default method, and its per-weight variant."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.methods.base import GradientRule, LookaheadRule
from fsg.training.methods.fsg_published import ReferenceFSG
from fsg.training.methods.history import GradientHistory
from fsg.training.methods.hypernet import NONLINEARITIES, FastNet, SlowNet
from fsg.training.registry import check_name

EPS = 1e-8  # beside the root of the squared gradients, as everywhere in Adam
GATE = 0.54  # a gate stays within 1 - GATE and 1 + GATE, so that one weight gets at most 3.3 times another's share
DT = (0.1, 1.0)  # initial step sizes of the slow net: its sequences are short
CHUNK = 262144  # weights whose histories pass the slow net together, for the sake of memory
META_SAMPLE = 32768  # weights whose gradient teaches the hypernetworks in one step


class PerWeightFSG(LookaheadRule):
    """Fast and slow gradient generation (Chen et al., AAAI 2025, arXiv 2412.11777), with time as the sequence axis.

    For every weight, with g its straight-through gradient of the previous minibatch, r the root mean square of its
    gradients so far (decay beta2) and M their mean (decay beta1), both corrected for their start as Adam does:

        slow = M (1 + GATE tanh(SlowNet(layer embedding, last gradients / r, seen along M)))
        fast = g (1 + GATE tanh(FastNet(g / r, seen along M)))
        u = alpha slow + (1 - alpha) fast
        look-ahead weight = w - lr u / r, scaled per layer to the size that it would have with all gates at 1

    where "seen along M" means multiplied by its sign: a history and its mirror image are one, and whether the newest
    gradient agrees with its predecessors is there to read. The forward pass uses the look-ahead weights, and after the
    backward pass they become the weights. The last layers of both nets start at zero, so the rule starts as Adam with
    Nesterov's momentum (with alpha 1, as Adam) and departs from it as far as the hypernetworks learn to. They ascend
    the inner product of u with the gradient at the look-ahead weights, which is how the loss there depends on them.

    `history` counts the gradients that the slow net sees, the newest included. With 0 none is kept: the slow gradient
    is g itself under a gate that sees nothing else. Without `slow` the rule is the fast gradient alone; without
    `embedding` the slow net does not know the layer. With optimizer "sgd" nothing is divided by r. Errors: FsgError for
    settings out of range and a model without binary layers.

    Differs from the published code, in which the history of a weight lies out of its slow net's reach and the slow
    gradient does not enter the update.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        optimizer: str = "adam",
        beta1: float = 0.9,
        beta2: float = 0.9,
        weight_decay: float = 0.0,
        alpha: float = 0.5,
        history: int = 5,
        slow: bool = True,
        embedding: bool = True,
        fast_lr: float = 1e-3,
        slow_lr: float = 1e-3,
        hidden: int = 8,
        nonlinearity: str = "tanh",
        expand: int = 8,
        d_state: int = 4,
        d_conv: int = 4,
    ) -> None:
        super().__init__(model, lr=lr, optimizer=optimizer, beta1=beta1, beta2=beta2, weight_decay=weight_decay)
        if not 0 <= alpha <= 1:
            raise FsgError(f"alpha is {alpha:g}: it must be from 0 to 1")
        if history < 0:
            raise FsgError(f"the history length is {history}: it must be at least 0")
        weights = [layer.weight for layer in self.layers]
        self.layer_of = torch.arange(len(weights)).repeat_interleave(torch.tensor(self.sizes)).to(weights[0].device)
        self.alpha = alpha if slow else 0.0
        self.decay = beta1 if history and slow else 0.0  # of the momentum
        self.embedding = embedding

        activation = NONLINEARITIES[check_name(nonlinearity, NONLINEARITIES, "nonlinearity")]
        self.fast = FastNet(hidden, activation).to(weights[0])
        nn.init.zeros_(self.fast[-1].weight)  # type: ignore[arg-type]
        groups = [{"params": list(self.fast.parameters()), "lr": fast_lr}]
        self.slow: SlowNet | None = None
        if slow:
            self.slow = SlowNet(len(weights) if embedding else 0, expand, d_state, d_conv, dt=DT).to(weights[0])
            # The customary values are for hundreds of inputs: with one, the state would be a hundredth of the output.
            nn.init.normal_(self.slow.mamba.in_proj.weight)
            nn.init.normal_(self.slow.mamba.x_proj.weight)
            nn.init.zeros_(self.slow.mamba.out_proj.weight)
            groups.append({"params": list(self.slow.parameters()), "lr": slow_lr})
        self.meta_optimizer = torch.optim.Adam(groups, eps=1e-12)

        self.history = GradientHistory(max(history, 1), sum(self.sizes)).to(weights[0])
        self.mean = weights[0].new_zeros(sum(self.sizes))  # of all gradients
        self.square = weights[0].new_zeros(sum(self.sizes))  # of their squares

    def _layer_mean(self, values: Tensor, layer: Tensor) -> Tensor:
        """Values [n] of weights in the layers [n] -> their mean in each layer, [layers]."""
        sums = values.new_zeros(len(self.sizes)).index_add(0, layer, values)
        return sums / torch.bincount(layer, minlength=len(self.sizes))

    def _direction(self, index: Tensor | None) -> Tensor:
        """What is subtracted, times lr, from the weights at `index` [n] or from all; differentiable in the nets."""
        layer, tokens, mean, rms = self.layer_of, self.history.ordered(), self.mean, self.rms
        if index is not None:
            layer, tokens, mean, rms = layer[index], tokens[index], mean[index], rms[index]
        newest = tokens[:, -1]
        mean = mean / (1 - self.decay ** int(self.history.count))
        heading = torch.where(mean < 0, -1.0, 1.0) / rms
        fast = newest * self._gate(self.fast((newest * heading)[:, None])[:, 0])
        combined, plain = (1 - self.alpha) * fast, (1 - self.alpha) * newest
        if self.slow is not None:
            slow = mean * self._gate(self._slow_logits(self.slow, tokens * heading[:, None], layer))
            combined, plain = combined + self.alpha * slow, plain + self.alpha * mean
        unit = rms if self.adaptive else torch.full_like(rms, 1 - self.decay)
        combined, plain = combined / unit, plain / unit
        size_of = [self._layer_mean(u.square(), layer) for u in (plain, combined)]
        return combined * (size_of[0] / (size_of[1] + torch.finfo(rms.dtype).tiny)).sqrt()[layer]

    def _slow_logits(self, slow: SlowNet, tokens: Tensor, layer: Tensor) -> Tensor:
        """Histories [n, L] of weights in the layers [n] -> [n]."""
        chunks = zip(tokens.split(CHUNK), layer.split(CHUNK), strict=True)
        return torch.cat([slow(part, of if self.embedding else None) for part, of in chunks])

    @staticmethod
    def _gate(logits: Tensor) -> Tensor:
        return 1 + GATE * torch.tanh(logits)

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        lookahead = self.latent()
        count = int(self.history.count)
        if count:  # the first step only produces gradients
            self.rms = (self.square / (1 - self.beta2**count)).sqrt_().add_(EPS)
            with torch.no_grad():
                lookahead -= self.lr * self._direction(None)
        with self.lend(lookahead):
            yield

    def step(self) -> None:
        lookahead, gradient = self.returned()
        if self.history.count:
            self._learn(gradient)
        with torch.no_grad():
            self.mean.lerp_(gradient, 1 - self.decay)
            self.square.lerp_(gradient.square(), 1 - self.beta2)
            self.history.push(gradient)
        self.move_to(lookahead)
        super().step()

    def _learn(self, gradient: Tensor) -> None:
        """Moves the hypernetworks down the loss, whose gradient at the look-ahead weights is `gradient` [N].

        A few hundred parameters need no more than a sample of the weights; over the steps every weight has its turn.
        Gradients are counted in units of r, so that all layers teach alike, whatever lr is.
        """
        stride = -(-len(gradient) // META_SAMPLE)
        index = torch.arange(int(self.history.count) % stride, len(gradient), stride, device=gradient.device)
        target = -gradient[index] / self.rms[index] / len(index)
        self._direction(index).backward(target)
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad()

    @property
    def hypernetwork_parameters(self) -> int:
        nets = (self.fast,) if self.slow is None else (self.fast, self.slow)
        return sum(parameter.numel() for net in nets for parameter in net.parameters())

    def state_dict(self) -> dict[str, Any]:
        slow = {} if self.slow is None else {"slow": self.slow.state_dict()}
        return {
            **super().state_dict(),
            **slow,
            "fast": self.fast.state_dict(),
            "meta_optimizer": self.meta_optimizer.state_dict(),
            "history": self.history.state_dict(),
            "mean": self.mean,
            "square": self.square,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.fast.load_state_dict(state["fast"])
        if self.slow is not None:
            self.slow.load_state_dict(state["slow"])
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])
        self.history.load_state_dict(state["history"])
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])


VARIANTS: dict[str, type[GradientRule]] = {"per-weight": PerWeightFSG, "reference": ReferenceFSG}


def FSG(model: nn.Module, *, variant: str = "per-weight", **settings: Any) -> GradientRule:
    """Fast and slow gradient generation: variant "per-weight" (`PerWeightFSG`) or "reference" (`ReferenceFSG`)."""
    return VARIANTS[check_name(variant, VARIANTS, "variant")](model, **settings)
