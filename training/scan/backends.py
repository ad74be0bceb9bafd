"""Which implementation of the Mamba block computes some tokens."""

import importlib.util

from torch import Tensor

from fsg import FsgError
from fsg.training.registry import check_name
from fsg.training.scan import cpu

BACKENDS = ("auto", "plain", "native", "triton")


def choose_backend(tokens: Tensor, backend: str = "auto") -> str:
    """The backend of a Mamba block on these tokens: "plain" (PyTorch), "native" (CPUs) or "triton" (CUDA).

    Errors: FsgError for an unknown one, or one that cannot compute these tokens here.
    """
    check_name(backend, BACKENDS, "scan backend")
    is_float = tokens.dtype in cpu.REACH
    able = {
        "native": is_float and tokens.device.type == "cpu" and cpu.is_available(),
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
        return cpu.fused_block(tokens, parameters, token_ends, output_ends, states, taps)
    from fsg.training.scan import cuda  # triton exists on CUDA machines only

    return cuda.fused_block(tokens, parameters, token_ends, output_ends, states, taps)
