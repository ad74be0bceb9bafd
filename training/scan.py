"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752), written plainly, and which fast one to take."""

import importlib.util

import torch
from torch import Tensor

from fsg import FsgError
from fsg.training import scan_native
from fsg.training.config import check_name

BACKENDS = ("auto", "plain", "native", "triton")


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


def choose_backend(tokens: Tensor, backend: str = "auto") -> str:
    """The backend of a Mamba block on these tokens: "plain" (PyTorch), "native" (CPUs) or "triton" (CUDA).

    Errors: FsgError for an unknown one, or one that cannot compute these tokens here.
    """
    check_name(backend, BACKENDS, "scan backend")
    is_float = tokens.dtype in scan_native.REACH
    able = {
        "native": is_float and tokens.device.type == "cpu" and scan_native.is_available(),
        "triton": is_float and tokens.is_cuda and importlib.util.find_spec("triton") is not None,
        "plain": True,
    }
    if backend == "auto":
        return next(name for name, is_able in able.items() if is_able)
    if not able[backend]:
        kind = f"{tokens.dtype} on {tokens.device.type}".removeprefix("torch.")
        raise FsgError(f"the {backend} scan cannot compute {kind} in this installation: choose auto")
    return backend


def fused_block(
    tokens: Tensor,
    parameters: Tensor,
    token_ends: Tensor,
    output_ends: Tensor,
    states: int,
    taps: int,
    *,
    backend: str = "native",
) -> Tensor:
    """The last outputs of a Mamba block (d_model 1, arXiv 2312.00752) on sequences of any lengths, differentiable once.

    Shapes: tokens [T], all sequences one after the other; parameters [rows, channels], see `MambaBlock.packed`;
    token_ends, output_ends int64 [sequences + 1] on the CPU, running totals from 0 of tokens and of wanted outputs
    (1 or more of each per sequence, outputs never more than tokens); the result is [output_ends[-1]].
    """
    parameters = parameters.to(tokens.dtype)
    if backend == "native":
        return scan_native.fused_block(tokens, parameters, token_ends, output_ends, states, taps)
    from fsg.training import scan_triton  # triton exists on CUDA machines only

    return scan_triton.fused_block(tokens, parameters, token_ends, output_ends, states, taps)
