"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752), written plainly."""

import torch
from torch import Tensor


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, last_only: bool = False
) -> Tensor:
    """Runs h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t and y_t = C_t h_t + D u_t along the second axis, from h = 0.

    Shapes: u, dt [E, T, N]; A [E, S]; B, C [S, T, N]; D [E]; the result is y [E, T, N], with `last_only` just the last
    step, [E, 1, N]. The N independent sequences stand last, where memory is contiguous: there are many of them.
    """
    steps = u.shape[1]
    state = u.new_zeros(*A.shape, u.shape[2])
    inputs = dt * u
    outputs = []
    for t in range(steps):
        decay = torch.exp(dt[:, None, t] * A[..., None])
        state = torch.addcmul(inputs[:, None, t] * B[:, t], decay, state)
        if t == steps - 1 or not last_only:
            outputs.append((state * C[:, t]).sum(1))
    return torch.stack(outputs, dim=1) + D[:, None, None] * u[:, -len(outputs) :]
