"""The hypernetworks of FSG (arXiv 2412.11777): a fast net on the present, a slow net on the history of a gradient."""

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.scan.backends import choose_backend, fused_block
from fsg.training.scan.plain import selective_scan

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
    convolution. Step sizes start log-uniform within `dt`: about 1 / dt tokens are remembered. Parameter names and
    initial values follow the mamba_ssm package (arXiv 2312.00752).
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

    def forward(self, tokens: Tensor, *, last: int | None = None, backend: str = "auto") -> Tensor:
        """Token sequences [N, T, 1] -> [N, T, 1], or with `last` only so many last outputs, [N, last, 1].

        `backend` is "plain" (PyTorch), "native" (compiled, for CPUs), "triton" (for CUDA) or "auto", the fastest there
        is for the tokens. Errors: FsgError for a `last` outside 1 to T and a backend that cannot compute these tokens.
        """
        count, steps = tokens.shape[:2]
        last = steps if last is None else last
        if not 1 <= last <= steps:
            raise FsgError(f"{last} outputs of {steps} tokens: ask for 1 to {steps}")
        backend = choose_backend(tokens, backend)
        if backend == "plain":
            return self._plain(tokens, last)
        ends = torch.arange(count + 1)
        return self._fused(tokens.flatten(), ends * steps, ends * last, backend).view(count, last, 1)

    def sequences(self, tokens: list[Tensor], last: list[int], *, backend: str = "auto") -> list[Tensor]:
        """Sequences of several lengths, each [T_j], to their last outputs, [last_j]; backend and errors as above."""
        for sequence, wanted in zip(tokens, last, strict=True):
            if not 1 <= wanted <= len(sequence):
                raise FsgError(f"{wanted} outputs of {len(sequence)} tokens: ask for 1 to {len(sequence)}")
        flat = torch.cat(tokens)
        backend = choose_backend(flat, backend)
        if backend == "plain":
            return [self._plain(s[None, :, None], n)[0, :, 0] for s, n in zip(tokens, last, strict=True)]
        token_ends, output_ends = (torch.tensor([0, *counts]).cumsum(0) for counts in (list(map(len, tokens)), last))
        return list(self._fused(flat, token_ends, output_ends, backend).split(last))

    def packed(self) -> Tensor:
        """All parameters as rows of channels, differentiable: what the fused block computes with.

        The taps of the convolution, each times the input projection, [kernel]; its bias; the input projection of the
        gate; the rows of x_proj, [1 + 2 states]; weight and bias of dt_proj; A, [states]; D; out_proj.
        """
        x, gate = self.in_proj.weight[:, 0].chunk(2)
        assert self.conv1d.bias is not None
        rows = [
            (self.conv1d.weight[:, 0] * x[:, None]).T,
            torch.stack([self.conv1d.bias, gate]),
            self.x_proj.weight,
            torch.stack([self.dt_proj.weight[:, 0], self.dt_proj.bias]),
            -torch.exp(self.A_log).T,
            self.D[None],
            self.out_proj.weight,
        ]
        return torch.cat(rows)

    def _fused(self, tokens: Tensor, token_ends: Tensor, output_ends: Tensor, backend: str) -> Tensor:
        states, kernel = self.A_log.shape[1], self.conv1d.kernel_size[0]
        return fused_block(tokens, self.packed(), token_ends, output_ends, states, kernel, backend=backend)

    def _plain(self, tokens: Tensor, last: int) -> Tensor:
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
        y = y * F.silu(gate[:, -last:])
        return (self.out_proj.weight @ y.flatten(1)).view(*y.shape[1:]).T[..., None]


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
