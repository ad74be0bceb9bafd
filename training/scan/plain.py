"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752), written plainly: what the fast ones must equal."""

import torch
from torch import Tensor


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, last: int | None = None
) -> Tensor:
    """Runs h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t and y_t = C_t h_t + D u_t along the second axis, from h = 0.

    Shapes: u, dt [E, T, N]; A [E, S]; B, C [S, T, N]; D [E]; the result is y [E, T, N], with `last` its last
    steps only, [E, last, N]. The N independent sequences stand last, where memory is contiguous: there are many of
    them.
    """
    first = 0 if last is None else u.shape[1] - last
    state = u.new_zeros(*A.shape, u.shape[2])
    outputs = []
    # unbind: the gradient of indexing would be as large as the whole tensor at every step.
    steps = zip(dt.unbind(1), (dt * u).unbind(1), B.unbind(1), C.unbind(1), strict=True)
    for t, (dt_t, input_t, B_t, C_t) in enumerate(steps):
        decay = torch.exp(dt_t[:, None] * A[..., None])
        state = torch.addcmul(input_t[:, None] * B_t, decay, state)
        if t >= first:
            outputs.append((state * C_t).sum(1))
    return torch.stack(outputs, dim=1) + D[:, None, None] * u[:, first:]
