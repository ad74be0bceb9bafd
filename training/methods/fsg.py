"""Fast and slow gradient generation (FSG), the default method, and its per-weight variant."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.config import EARLIER_FSG
from fsg.training.methods.base import GradientRule, LookaheadRule
from fsg.training.methods.fsg_published import ReferenceFSG
from fsg.training.methods.hyperfile import Hypernetwork, read_hypernetwork, shipped
from fsg.training.methods.slow import LayerNet, orthogonalized
from fsg.training.networks.layers import BinaryActivation
from fsg.training.registry import check_name

EPS = 1e-8  # beside the root of the squared gradients, as everywhere in Adam
FAR = 5.0  # steps of lr from the threshold; nobody farther away is about to flip
INWARD = 0.2  # so much of lr a step draws those who are far, for an output of 1


class PerWeightFSG(LookaheadRule):
    """Fast and slow gradient generation (after Chen et al., AAAI 2025, arXiv 2412.11777), weight by weight.

    With g the newest straight-through gradient of a weight w, r the root mean square of its gradients so far (decay
    beta2) and M their mean (decay beta1), both corrected for their start as Adam does:

        slow, fast = M / r, g / r
        v = alpha slow + (1 - alpha) fast, where alpha's log odds are those of the setting, and mix
        v = (1 - spectral) v + spectral O, where O is v's nearest semi-orthogonal matrix [out, in], as large as v
        u = exp(step) (v + INWARD max(inward, 0) sign(w) [|w| > FAR lr])
        look-ahead weight = w - lr u

    step, mix, spectral and inward are what the slow net makes, for each layer and step, of the layer's history and of
    what kind of layer it is; see `LayerNet`. O moves all directions of a layer's weights alike, not just the few in
    which its gradients are large (Muon, Jordan et al. 2024); what is drawn inward can still change its sign later. With
    a slow net of zeros all that is left is Adam with Nesterov's momentum (for alpha 1: Adam). The forward pass uses the
    look-ahead weights, which then become the weights.

    The slow net is learnt beforehand, over many short trainings (`fsg meta-train`), and does not change:
    `hypernetwork` names its file, "" the one that comes with fsg, "none" that of zeros. With `history` 0 there is no
    momentum and the slow net sees nothing of the past; without `slow` there is neither momentum nor slow net; without
    `embedding` it does not know the layer. With optimizer "sgd" nothing is divided by r. Errors: FsgError for settings
    out of range, files that are no hypernetwork and a model without binary layers.

    Differs from the published code, in which the history of a weight lies out of its slow net's reach, the slow
    gradient does not enter the update and the hypernetworks learn during the training, from a loss that looks one step
    ahead.
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
        hypernetwork: str | Hypernetwork = "",
    ) -> None:
        super().__init__(model, lr=lr, optimizer=optimizer, beta1=beta1, beta2=beta2, weight_decay=weight_decay)
        if not 0 <= alpha <= 1:
            raise FsgError(f"alpha is {alpha:g}: it must be from 0 to 1")
        if history < 0:
            raise FsgError(f"the history length is {history}: it must be at least 0")
        like = self.layers[0].weight
        self.alpha = alpha if slow else 0.0
        self.decay = beta1 if history and slow else 0.0  # of the momentum
        net = chosen(hypernetwork) if slow else Hypernetwork()
        one_bit = any(isinstance(module, BinaryActivation) for module in model.modules())
        self.slow = LayerNet(net, self.layers, history=bool(history), embedding=embedding, one_bit=one_bit).to(like)
        self.layer_of = torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes)).to(like.device)
        self.count = 0  # of gradients
        zeros = like.new_zeros(sum(self.sizes))
        self.newest = zeros  # gradient
        self.mean, self.square = zeros.clone(), zeros.clone()  # of all gradients, of their squares

    def layer_sums(self, values: Tensor) -> Tensor:
        """Values of all binary weights, [..., N] -> their sum in each layer, [..., layers]."""
        return torch.stack([part.sum(-1) for part in values.split(self.sizes, -1)], -1)

    def _direction(self, w: Tensor) -> Tensor:
        """What is subtracted, times lr, from the weights [N]."""
        self.rms = (self.square / (1 - self.beta2**self.count)).sqrt_().add_(EPS)
        unit = self.rms if self.adaptive else torch.full_like(self.rms, 1 - self.decay)
        g, M = self.newest / unit, self.mean / (1 - self.decay**self.count) / unit
        v = self.alpha * M + (1 - self.alpha) * g
        slow = self.slow
        if not slow.used:
            return v
        of = slow.outputs(self.progress, self.steps)  # [layers] by name

        def each(name: str) -> Tensor:
            return of[name][self.layer_of]

        if "mix" in slow.used:
            odds = math.log(max(self.alpha, EPS) / max(1 - self.alpha, EPS))
            alpha = torch.sigmoid(odds + each("mix"))
            v = alpha * M + (1 - alpha) * g
        if "spectral" in slow.used:
            flat = self.join(orthogonalized(self.split(v)))
            share = each("spectral").clamp(0, 1)
            v = (1 - share) * v + share * flat * self._ratio(v, flat)[self.layer_of]
        if "inward" in slow.used:
            v = v + INWARD * each("inward").clamp(min=0) * torch.where(w.abs() > FAR * self.lr, torch.sign(w), 0.0)
        return torch.exp(each("step").clamp(-1, 1)) * v if "step" in slow.used else v

    def _ratio(self, wanted: Tensor, found: Tensor) -> Tensor:
        """Per layer, what `found` [N] is to be multiplied with to be as large as `wanted`: [layers]."""
        squares = self.layer_sums(torch.stack([wanted, found]).square())
        return (squares[0] / (squares[1] + torch.finfo(wanted.dtype).tiny)).sqrt()

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        weights = self.latent()
        with torch.no_grad():
            if self.count:  # the first step only produces gradients
                weights -= self.lr * self._direction(weights)
        with self.lend(weights):
            yield

    def step(self) -> None:
        weights, gradient = self.returned()
        with torch.no_grad():
            if self.count and self.slow.remembers:
                self._look_at(weights, gradient)
            self.mean.lerp_(gradient, 1 - self.decay)
            self.square.lerp_(gradient.square(), 1 - self.beta2)
            self.newest = gradient
            self.count += 1
        self.move_to(weights)
        super().step()

    def _look_at(self, weights: Tensor, gradient: Tensor) -> None:
        """Tells the slow net what became of the step to `weights` [N], where the gradient is `gradient`."""
        up = weights > 0
        flips = up != (self.latent() > 0)
        credit = torch.where(flips, torch.where(up, -gradient, gradient) / self.rms, 0.0)
        products = (gradient * self.newest, gradient.square(), self.newest.square())
        self.slow.see(*self.layer_sums(torch.stack([credit, flips.to(credit), *products])))

    @property
    def hypernetwork_parameters(self) -> int:
        return self.slow.weights.numel()

    def state_dict(self) -> dict[str, Any]:
        tensors = {name: getattr(self, name) for name in ("newest", "mean", "square")}
        return {**super().state_dict(), **tensors, "count": self.count, "slow": self.slow.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.slow.load_state_dict(state["slow"])
        self.count = state["count"]
        self.newest = state["newest"].to(self.newest, copy=True)
        for name in ("mean", "square"):
            getattr(self, name).copy_(state[name])


def chosen(hypernetwork: str | Hypernetwork) -> Hypernetwork:
    """What a setting names: a file, "" the one that comes with fsg, "none" one of zeros."""
    if isinstance(hypernetwork, Hypernetwork):
        return hypernetwork
    if hypernetwork == "none":
        return Hypernetwork()
    return read_hypernetwork(Path(hypernetwork)) if hypernetwork else shipped()


VARIANTS: dict[str, type[GradientRule]] = {"per-weight": PerWeightFSG, "reference": ReferenceFSG}


def FSG(model: nn.Module, *, variant: str = "per-weight", **settings: Any) -> GradientRule:
    """Fast and slow gradient generation: variant "per-weight" (`PerWeightFSG`) or "reference" (`ReferenceFSG`).

    Errors: FsgError for a setting that the variant does not have, and those of the variant.
    """
    if settings.get("hypernetwork") == EARLIER_FSG:
        raise FsgError("a run of FSG from before its hypernetwork became a file: it can be exported; train anew")
    rule = VARIANTS[check_name(variant, VARIANTS, "variant")]
    known = inspect.signature(rule).parameters
    for name in settings:
        if name not in known:
            raise FsgError(f"{name.replace('_', ' ')} is no setting of FSG's variant {variant}: leave it away")
    return rule(model, **settings)
