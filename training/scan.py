"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752), written plainly."""

import torch
from torch import Tensor


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Runs h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t and y_t = C_t h_t + D u_t along the first axis, from h = 0.

    Shapes: u, dt [T, E, N]; A [E, S]; B, C [T, S, N]; D [E]; the result is y [T, E, N]. The N independent
    sequences stand last, where memory is contiguous: there are many more of them than of anything else.
    """
    state = u.new_zeros(*A.shape, u.shape[-1])
    outputs = []
    for t in range(len(u)):
        decay = torch.exp(dt[t, :, None] * A[..., None])
        state = decay * state + (dt[t] * u[t])[:, None] * B[t]
        outputs.append((state * C[t]).sum(1))
    return torch.stack(outputs) + D[:, None] * u
