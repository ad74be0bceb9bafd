"""One-bit quantisers with their straight-through gradients.

A weight quantiser maps latent float weights to values whose sign is the stored bit; every output channel holds
+c or -c with one c > 0 for the channel. The activation quantiser maps to -1 and +1.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fsg.training.config import check_name


class _Round(torch.autograd.Function):
    """Rounds half to even; the gradient passes unchanged (straight-through estimator)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Sign(torch.autograd.Function):
    """-1 where x < 0, else +1 (also for both zeros), with a surrogate gradient that vanishes for |x| > 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, polynomial: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.polynomial = polynomial
        return (x < 0).to(x.dtype).mul_(-2).add_(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        slope = (2 - 2 * x.abs()).clamp_(min=0) if ctx.polynomial else (x.abs() <= 1).to(x.dtype)
        return grads[0] * slope, None


def sign(x: Tensor, gradient: str = "polynomial") -> Tensor:
    """Binarises activations of any shape to -1 and +1; zero becomes +1, as in Larq Compute Engine's LceQuantize.

    `gradient="clipped"`: 1 for |x| <= 1, else 0 (Courbariaux et al. 2016, arXiv 1602.02830).
    `gradient="polynomial"`: 2 - 2|x| for |x| <= 1, else 0 (Bi-Real Net, Liu et al. 2018, arXiv 1808.00278).
    """
    return _Sign.apply(x, check_name(gradient, ACTIVATION_GRADIENTS, "activation gradient") == "polynomial")


def dorefa(weight: Tensor) -> Tensor:
    """Binarises latent weights of any shape to -1 and +1 (DoReFa-Net, Zhou et al. 2016, arXiv 1606.06160).

    Forward: q = 2 round(p) - 1 with p = tanh(w) / (2 max|tanh(w)|) + 1/2; half rounds to even, so zero becomes -1.
    Backward: dq/dw = (1 - tanh(w)^2) / max|tanh(w)|, the maximum taken as a constant.
    """
    return 2 * _Round.apply(dorefa_level(weight)) - 1


def dorefa_level(weight: Tensor) -> Tensor:
    """What `dorefa` rounds: p, from 0 to 1, in the shape of `weight`."""
    squashed = torch.tanh(weight)
    return squashed / _largest(squashed) * 0.5 + 0.5


def dorefa_slope(weight: Tensor) -> Tensor:
    """What `dorefa` multiplies gradients with: dq/dw, in the shape of `weight`."""
    squashed = torch.tanh(weight)
    return (1 - squashed.square()) / _largest(squashed)


def _largest(squashed: Tensor) -> Tensor:
    # The floor keeps an all-zero tensor finite; it changes no other.
    return squashed.detach().abs().max().clamp(min=torch.finfo(squashed.dtype).tiny)


def scaled_sign(weight: Tensor) -> Tensor:
    """Binarises [O, ...] latent weights to -a and +a with a = mean|w| of each output channel (XNOR-Net, Rastegari et
    al. 2016, arXiv 1603.05279). Zero becomes +a.

    Backward: clipped straight-through for the sign times a; the gradient also flows through a.
    """
    scale = weight.abs().flatten(1).mean(1).clamp(min=torch.finfo(weight.dtype).tiny)
    return sign(weight, "clipped") * scale.view(-1, *[1] * (weight.dim() - 1))


ACTIVATION_GRADIENTS = ("polynomial", "clipped")
WEIGHT_QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {"dorefa": dorefa, "scaled-sign": scaled_sign}
