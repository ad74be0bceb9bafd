"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752), written plainly."""

import torch
from torch import Tensor


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Runs h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t and y_t = C_t h_t + D u_t along the second axis, from h = 0.

    Shapes: u, dt [N, T, E]; A [E, S]; B, C [N, T, S]; D [E]; the result is y [N, T, E].
    """
    state = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        state = decay * state + (dt[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        outputs.append((state @ C[:, t, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1) + D * u
