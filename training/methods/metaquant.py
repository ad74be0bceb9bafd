"""MetaQuant: the gradient of the binarisation learned by a network that all layers share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.methods.base import BETA2, LookaheadRule
from fsg.training.methods.hypernet import NONLINEARITIES, FastNet
from fsg.training.networks.quantizers import dorefa, dorefa_level, dorefa_slope
from fsg.training.registry import check_name

EPS = 1e-8  # beside the root of the squared gradients, as everywhere in Adam


class MetaNet(nn.Module):
    """Refines gradients, each weight's by itself."""

    memory_width = 0

    def forward(self, gradient: Tensor, level: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """gradient, level [N] and memory [2, N, memory_width] -> refined gradient [N], new memory."""
        raise NotImplementedError

    @torch.no_grad()
    def make_positive(self, like: Tensor) -> None:
        """Turns the output's sign, if need be, so that unit gradients are on the whole multiplied by a positive."""
        level = torch.linspace(0, 1, 11).to(like)
        if self(torch.ones_like(level), level, level.new_zeros(2, len(level), self.memory_width))[0].sum() < 0:
            for parameter in list(self.modules())[-1].parameters():  # the last layer
                parameter.neg_()


class FCGrad(MetaNet):
    """A perceptron F of the gradient alone: g_r = F(g)."""

    def __init__(self, hidden: int, nonlinearity: str) -> None:
        super().__init__()
        self.net = FastNet(hidden, NONLINEARITIES[nonlinearity], depth=1)

    def forward(self, gradient: Tensor, level: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(gradient[:, None])[:, 0], memory


class MultiFC(MetaNet):
    """The gradient times a perceptron F of the pre-quantised weight: g_r = g F(p)."""

    def __init__(self, hidden: int, nonlinearity: str) -> None:
        super().__init__()
        self.net = FastNet(hidden, NONLINEARITIES[nonlinearity])

    def forward(self, gradient: Tensor, level: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return gradient * self.net(level[:, None])[:, 0], memory


class LSTMFC(MetaNet):
    """The gradient times a linear layer over an LSTM that reads the weight's p, step after step: g_r = g F(LSTM(p)).

    The memory holds the LSTM's output and cell of every weight; nothing flows back into earlier steps.
    """

    def __init__(self, hidden: int, nonlinearity: str) -> None:
        super().__init__()
        if nonlinearity != "none":
            raise FsgError(f"MetaQuant's LSTM has no nonlinearity {nonlinearity}: leave it at none")
        self.memory_width = hidden
        self.cell = nn.LSTMCell(1, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, gradient: Tensor, level: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        output, cell = self.cell(level[:, None], (memory[0], memory[1]))
        return gradient * self.output(output)[:, 0], torch.stack([output.detach(), cell.detach()])


METANETS: dict[str, Callable[[int, str], MetaNet]] = {"fc-grad": FCGrad, "multi-fc": MultiFC, "lstm": LSTMFC}
HIDDEN = {"fc-grad": 100, "multi-fc": 100, "lstm": 20}


@dataclass(frozen=True)
class State:
    """What the next update follows from, all layers flat. Shapes: [N], the memory [2, N, memory_width]."""

    gradient: Tensor  # with respect to the binary weights
    level: Tensor  # the p that was rounded to those
    memory: Tensor  # of the meta network
    mean: Tensor  # the momentum in pi
    square: Tensor  # and the mean square


@dataclass(frozen=True)
class Ahead:
    """The update under way between lookahead() and step()."""

    weights: Tensor  # the look-ahead weights [N]
    refined: Tensor | None  # g [N], a function of the meta network; none in the first step
    state: State  # all but the gradient is that after the step


class MetaQuant(LookaheadRule):
    """MetaQuant (Chen, Wang & Pan, NeurIPS 2019; code: github.com/csyhhu/MetaQuant), for DoReFa's one-bit weights.

    With G the gradient of the previous minibatch with respect to the binary weights, p what the quantiser rounded then
    (from 0 to 1), W the latent weights and k the quantiser's slope at W:

        g = k g_r, the refined gradient g_r from the meta network: F(G), G F(p) or G LSTM(p)
        look-ahead weight = W - lr pi(g), pi the direction of Adam or of SGD with momentum

    The forward pass uses the look-ahead weights, and after the backward pass they become the weights. The meta network
    descends the loss at them by Adam with the constant rate `fast_lr`; as in the paper, pi counts as g plus a constant
    there. All layers share one meta network and are computed together. The first step only produces gradients.
    `metanet` is "fc-grad", "multi-fc" or "lstm", of `hidden` units (0 takes 100, or 20 for the LSTM, which has 100 in
    the paper and would cost more than the network's own step).

    Differs from the published code, which leaves the sign of the first update to chance: the meta network is drawn
    such that its first update descends. Errors: FsgError for an unknown name, a model without binary layers or with
    another quantiser than "dorefa".
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
        metanet: str = "multi-fc",
        fast_lr: float = 1e-3,
        hidden: int = 0,
        nonlinearity: str = "none",
    ) -> None:
        net = METANETS[check_name(metanet, METANETS, "meta network")]
        check_name(nonlinearity, NONLINEARITIES, "nonlinearity")
        super().__init__(model, lr=lr, optimizer=optimizer, beta1=beta1, beta2=beta2, weight_decay=weight_decay)
        self.require_quantizer("dorefa")
        like = self.layers[0].weight
        self.beta1 = beta1
        self.net = net(hidden or HIDDEN[metanet], nonlinearity).to(like)
        self.net.make_positive(like)
        self.meta_optimizer = torch.optim.Adam(self.net.parameters(), lr=fast_lr)
        zeros = like.new_zeros(sum(self.sizes))
        self.state = State(zeros, zeros, like.new_zeros(2, len(zeros), self.net.memory_width), zeros, zeros)
        self.count = 0  # of steps; the first one moves no binary weight
        self.ahead: Ahead | None = None

    def _map(self, function: Callable[[Tensor], Tensor], flat: Tensor) -> Tensor:
        """Applies a function to each layer's part of a flat tensor: [N] -> [N]."""
        return self.join([function(part) for part in self.split(flat)])

    def _direction(self, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        """pi as in torch.optim: gradient [N] -> direction [N], and the state with the new momentum and mean square."""
        if not self.adaptive:
            mean = self.beta1 * state.mean + gradient
            return mean, replace(state, mean=mean)
        mean = state.mean.lerp(gradient, 1 - self.beta1)
        square = state.square.lerp(gradient.square(), 1 - self.beta2)
        root = (square / (1 - self.beta2**self.count)).sqrt_().add_(EPS)
        return mean / (1 - self.beta1**self.count) / root, replace(state, mean=mean, square=square)

    @contextmanager
    def lookahead(self) -> Iterator[None]:
        weights, refined, state = self.latent(), None, self.state
        if self.count:
            gradient, memory = self.net(state.gradient, state.level, state.memory)
            refined = self._map(dorefa_slope, weights) * gradient
            direction, state = self._direction(refined.detach(), replace(state, memory=memory))
            weights = weights - self.lr * direction
        self.ahead = Ahead(weights, refined, replace(state, level=self._map(dorefa_level, weights)))
        with self.lend(self._map(dorefa, weights)):
            yield

    def step(self) -> None:
        _, gradient = self.returned()
        assert self.ahead is not None
        weights, refined = self.ahead.weights, self.ahead.refined
        if refined is not None:
            refined.backward(-self.lr * self._map(dorefa_slope, weights) * gradient)
            self.meta_optimizer.step()
            self.meta_optimizer.zero_grad()
        self.state = replace(self.ahead.state, gradient=gradient)
        self.count += 1
        self.ahead = None
        self.move_to(weights)
        super().step()

    @property
    def hypernetwork_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.net.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            **vars(self.state),
            "count": self.count,
            "net": self.net.state_dict(),
            "meta_optimizer": self.meta_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.net.load_state_dict(state["net"])
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])
        self.count = state["count"]
        self.state = State(**{name: state[name].to(value, copy=True) for name, value in vars(self.state).items()})
