"""The hypernetworks of FSG (arXiv 2412.11777): a fast net on the present, a slow net on the history of a gradient."""

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsg.training.scan import selective_scan

NONLINEARITIES: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh}


class FastNet(nn.Sequential):
    """Multilayer perceptron without biases, of `depth` hidden layers, on each element: [N, 1] -> [N, 1].

    Without a nonlinearity it is the product of its weight matrices, one scalar, and computed as that.
    """

    def __init__(self, hidden: int, nonlinearity: type[nn.Module] = nn.Identity, *, depth: int = 2) -> None:
        layers: list[nn.Module] = []
        for width in [1] + [hidden] * (depth - 1):
            layers += [nn.Linear(width, hidden, bias=False), nonlinearity()]
        super().__init__(*layers, nn.Linear(hidden, 1, bias=False))
        self.linear = nonlinearity is nn.Identity

    def forward(self, x: Tensor) -> Tensor:
        if not self.linear:
            return super().forward(x)
        first, *others = (layer.weight for layer in self if isinstance(layer, nn.Linear))
        return x * reduce(lambda product, weight: weight @ product, others, first)


class MambaBlock(nn.Module):
    """Mamba with a one-dimensional model axis: token sequences [N, T, 1] -> [N, T, 1].

    `expand` is the number of inner channels, `states` the size of the state of each, `kernel` the length of the causal
    convolution. Step sizes start log-uniform within `dt`: about 1 / dt tokens are remembered. Parameter names and initial
    values follow the mamba_ssm package (arXiv 2312.00752).
    """

    def __init__(self, expand: int, states: int, kernel: int, *, dt: tuple[float, float] = (1e-3, 1e-1)) -> None:
        super().__init__()
        self.in_proj = nn.Linear(1, 2 * expand, bias=False)
        self.conv1d = nn.Conv1d(expand, expand, kernel, padding=kernel - 1, groups=expand)
        self.x_proj = nn.Linear(expand, 1 + 2 * states, bias=False)
        self.dt_proj = nn.Linear(1, expand)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(expand, 1))
        self.D = nn.Parameter(torch.ones(expand))
        self.out_proj = nn.Linear(expand, 1, bias=False)
        low, high = map(math.log, dt)
        sizes = torch.exp(torch.rand(expand) * (high - low) + low)
        with torch.no_grad():
            self.dt_proj.bias.copy_(sizes + torch.log(-torch.expm1(-sizes)))  # the inverse softplus

    def forward(self, tokens: Tensor, *, last: int | None = None) -> Tensor:
        """With `last`, just the outputs at the last `last` tokens: [N, last, 1]."""
        kernel, states = self.conv1d.kernel_size[0], self.A_log.shape[1]
        steps = tokens[..., 0].T.contiguous()  # [T, N]; values here are [channels, T, N], see selective_scan
        x, gate = (self.in_proj.weight[..., None] * steps).chunk(2)
        padded = F.pad(x, (0, 0, kernel - 1, 0))
        taps = self.conv1d.weight[:, 0, :, None, None].unbind(1)
        assert self.conv1d.bias is not None
        convolved = self.conv1d.bias[:, None, None]
        for k, tap in enumerate(taps):
            convolved = torch.addcmul(convolved, tap, padded[:, k : k + len(steps)])
        u = F.silu(convolved)
        dt, B, C = (self.x_proj.weight @ u.flatten(1)).unflatten(1, steps.shape).split([1, states, states])
        dt = F.softplus(self.dt_proj.weight[..., None] * dt + self.dt_proj.bias[:, None, None])
        y = selective_scan(u, dt, -torch.exp(self.A_log), B, C, self.D, last=last)
        y = y * F.silu(gate[:, -y.shape[1] :])
        return (self.out_proj.weight @ y.flatten(1)).view(*y.shape[1:]).T[..., None]

    def sequences(self, tokens: list[Tensor], last: list[int]) -> list[Tensor]:
        """Sequences of different lengths: tokens[j] [T_j] -> the outputs at its last `last[j]` tokens, [last[j]]."""
        return [self(one[None, :, None], last=n)[0, :, 0] for one, n in zip(tokens, last, strict=True)]


class SlowNet(nn.Module):
    """Reads the gradient history of each weight: [N, L] oldest first, layer indices [N] -> [N].

    The layer recognition embedding (LRE), one scalar per layer, stands as a token before the history, unless the
    layers are None.
    """

    def __init__(
        self, layers: int, expand: int, states: int, kernel: int, *, dt: tuple[float, float] = (1e-3, 1e-1)
    ) -> None:
        super().__init__()
        self.layer_embedding = nn.Embedding(layers, 1)
        self.mamba = MambaBlock(expand, states, kernel, dt=dt)

    def forward(self, history: Tensor, layer: Tensor | None) -> Tensor:
        tokens = history if layer is None else torch.cat([self.layer_embedding(layer), history], dim=1)
        return self.mamba(tokens[..., None], last=1)[:, 0, 0]
