"""The hypernetworks of FSG (arXiv 2412.11777): a fast net on the present, a slow net on the history of a gradient."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsg.training.scan import selective_scan


class FastNet(nn.Sequential):
    """Multilayer perceptron without biases, 1 -> hidden -> hidden -> 1, on each element: [N, 1] -> [N, 1]."""

    def __init__(self, hidden: int, nonlinearity: type[nn.Module] = nn.Identity) -> None:
        super().__init__(
            nn.Linear(1, hidden, bias=False),
            nonlinearity(),
            nn.Linear(hidden, hidden, bias=False),
            nonlinearity(),
            nn.Linear(hidden, 1, bias=False),
        )


class MambaBlock(nn.Module):
    """Mamba with a one-dimensional model axis: token sequences [N, T, 1] -> [N, T, 1].

    `expand` is the number of inner channels, `states` the size of the state of each, `kernel` the length of the causal
    convolution. Parameter names and initial values follow the mamba_ssm package (arXiv 2312.00752).
    """

    def __init__(self, expand: int, states: int, kernel: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(1, 2 * expand, bias=False)
        self.conv1d = nn.Conv1d(expand, expand, kernel, padding=kernel - 1, groups=expand)
        self.x_proj = nn.Linear(expand, 1 + 2 * states, bias=False)
        self.dt_proj = nn.Linear(1, expand)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(expand, 1))
        self.D = nn.Parameter(torch.ones(expand))
        self.out_proj = nn.Linear(expand, 1, bias=False)
        # Step sizes start log-uniform in [0.001, 0.1]; the bias is their inverse softplus.
        dt = torch.exp(torch.rand(expand) * math.log(100) + math.log(1e-3))
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, tokens: Tensor) -> Tensor:
        steps = tokens[..., 0].T[:, None].contiguous()  # [T, 1, N], for the layout see selective_scan
        x, gate = (self.in_proj.weight @ steps).chunk(2, dim=1)
        kernel, states = self.conv1d.kernel_size[0], self.A_log.shape[1]
        padded = torch.cat([x.new_zeros(kernel - 1, *x.shape[1:]), x])
        taps = self.conv1d.weight[:, 0, :, None].unbind(1)
        u = sum((tap * padded[k : k + len(x)] for k, tap in enumerate(taps)), self.conv1d.bias[:, None])
        u = F.silu(u)
        dt, B, C = (self.x_proj.weight @ u).split([1, states, states], dim=1)
        dt = F.softplus(self.dt_proj.weight @ dt + self.dt_proj.bias[:, None])
        y = selective_scan(u, dt, -torch.exp(self.A_log), B, C, self.D)
        return (self.out_proj.weight @ (y * F.silu(gate))).permute(2, 0, 1)


class SlowNet(nn.Module):
    """Reads the gradient history of each weight: [N, L] oldest first, layer indices [N] -> [N].

    The layer recognition embedding (LRE), one scalar per layer, stands as a token before the history.
    """

    def __init__(self, layers: int, expand: int, states: int, kernel: int) -> None:
        super().__init__()
        self.layer_embedding = nn.Embedding(layers, 1)
        self.mamba = MambaBlock(expand, states, kernel)

    def forward(self, history: Tensor, layer: Tensor) -> Tensor:
        tokens = torch.cat([self.layer_embedding(layer), history], dim=1)
        return self.mamba(tokens[..., None])[:, -1, 0]
