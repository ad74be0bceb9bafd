"""One-bit quantisers with their straight-through gradients.

A weight quantiser maps latent float weights to values whose sign is the stored bit; every output channel holds
+c or -c with one c > 0 for the channel. The activation quantiser maps to -1 and +1.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fsg.training.registry import check_name


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
        if torch.compiler.is_compiling():  # a compiler fuses the plain formula, and may drop the addition of zero
            return torch.where(x < 0, -1.0, 1.0).to(x.dtype)
        positive = x + 0.0  # -0 becomes +0; two passes over the memory, where the plain formula takes four
        return torch.copysign(x.new_ones(()), positive, out=positive)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.polynomial:
            return torch.rsub(x.abs(), 2, alpha=2).clamp_(min=0).mul_(grads[0]), None
        bound = 1 + torch.finfo(x.dtype).eps  # the next number after 1: hardtanh's own bounds have no gradient
        return torch.ops.aten.hardtanh_backward(grads[0], x, -bound, bound), None


class _SharpenedSign(torch.autograd.Function):
    """`_Sign` with the gradient of k tanh(t x): k t (1 - tanh(t x)^2) with k = max(1 / t, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sharpness: float) -> Tensor:
        ctx.sharpness = sharpness
        return _Sign.forward(ctx, x, False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        slope = torch.tanh(x * ctx.sharpness).square_().neg_().add_(1).mul_(max(ctx.sharpness, 1.0))
        return slope.mul_(grads[0]), None


def sign(x: Tensor, gradient: str = "polynomial", sharpness: float = 0.1) -> Tensor:
    """Binarises activations of any shape to -1 and +1; zero becomes +1, as in Larq Compute Engine's LceQuantize.

    `gradient="clipped"`: 1 for |x| <= 1, else 0 (Courbariaux et al. 2016, arXiv 1602.02830).
    `gradient="polynomial"`: 2 - 2|x| for |x| <= 1, else 0 (Bi-Real Net, Liu et al. 2018, arXiv 1808.00278).
    `gradient="ede"`: k t (1 - tanh(t x)^2) with t = `sharpness` and k = max(1 / t, 1), the error decay estimator of
    IR-Net (Qin et al. 2020, arXiv 1909.10788); see `ede_sharpness`.
    """
    if gradient == "ede":
        return _SharpenedSign.apply(x, sharpness)
    return _Sign.apply(x, check_name(gradient, ACTIVATION_GRADIENTS, "activation gradient") == "polynomial")


def ede_sharpness(progress: float) -> float:
    """IR-Net's t after a share `progress` of the training, from 0 to 1: from 0.1, nearly straight-through, to 10."""
    return 10 ** (2 * progress - 1)


def narrowing_sharpness(progress: float, share: float) -> float:
    """The t of "ede" that stands in for another gradient in the last `share` of the training: from 1, about as wide, to
    5, in equal ratios. 0 before."""
    start = 1 - share
    return 5 ** ((progress - start) / share) if share and progress > start else 0.0


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


def irnet(weight: Tensor, sharpness: float = 0.1) -> Tensor:
    """Binarises [O, ...] latent weights to -c and +c with c a power of two for each output channel (Libra parameter
    binarisation of IR-Net, Qin et al. 2020, arXiv 1909.10788).

    Forward: v = (w - mean) / std over the channel, std with n - 1 as in the authors' code; q = c sign(v) with
    c = 2^round(log2(mean|v|)). Zero becomes +c. Backward: `sign` with gradient "ede" at v; it flows on through the
    standardisation, and c is a constant.
    """
    tiny = torch.finfo(weight.dtype).tiny
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(flat.shape[1] - 1, 1)
    standardised = centred * variance.clamp(min=tiny).rsqrt()
    # The floor is for channels of equal weights; others have at least 2 / sqrt(n).
    scale = standardised.detach().abs().mean(1, keepdim=True).clamp(min=2**-16).log2().round().exp2()
    return (sign(standardised, "ede", sharpness) * scale).view_as(weight)


ACTIVATION_GRADIENTS = ("polynomial", "clipped", "ede")
WEIGHT_QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dorefa": dorefa,
    "scaled-sign": scaled_sign,
    "irnet": irnet,
}
