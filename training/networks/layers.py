"""Binary layers: drop-in replacements for torch.nn's Conv2d, Linear and an activation.

The latent float weights are the parameter `weight`, as in torch.nn, so state dicts of full-precision models load
unchanged. A GradientRule may lend a layer other latent weights for one forward pass (`lookahead`), or binary weights
(`binary`), whose gradient it wants.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsg.runtime.model.grids import MOST
from fsg.training.networks.quantizers import ACTIVATION_GRADIENTS, WEIGHT_QUANTIZERS, irnet, sign
from fsg.training.registry import check_name


class BinaryActivation(nn.Module):
    """Sign of the input, -1 or +1 (zero gives +1), any shape. See `quantizers.sign` for the gradients.

    `sharpness` belongs to the gradient "ede"; a GradientRule raises it as the training goes on. Where `narrowed` is not
    0, it is the sharpness of the gradient "ede" that stands in for the layer's own.
    """

    sharpness = 0.1
    narrowed = 0.0

    def __init__(self, gradient: str = "polynomial") -> None:
        super().__init__()
        self.gradient = check_name(gradient, ACTIVATION_GRADIENTS, "activation gradient")

    def forward(self, x: Tensor) -> Tensor:
        if self.narrowed:
            return sign(x, "ede", self.narrowed)
        return sign(x, self.gradient, self.sharpness)

    def extra_repr(self) -> str:
        return f"gradient={self.gradient}"


class Shift(nn.Module):
    """Adds a learnt number to each channel, 0 at first: [N, C, ...] -> [N, C, ...].

    In front of a sign it is that channel's threshold, negated (RSign of ReActNet, Liu et al. 2020, arXiv 2003.03488).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift.view(-1, *[1] * (x.dim() - 2))


class BinaryLayer(nn.Module):
    """What binary layers share: latent weights, their quantiser, and the weights lent for one forward pass.

    `sharpness` belongs to the quantiser "irnet"; a GradientRule raises it as the training goes on. While it sets
    `unquantized`, forward passes in training mode use the latent weights as they are; in evaluation mode, bits.
    """

    weight: Tensor
    quantizer: str
    lookahead: Tensor | None
    binary: Tensor | None
    sharpness = 0.1
    unquantized = False

    def latent_weight(self) -> Tensor:
        """The latent weights, or those lent in their stead."""
        return self.weight if self.lookahead is None else self.lookahead

    def used_weight(self) -> Tensor:
        """The weights that the forward pass uses, shaped as `weight`."""
        if self.unquantized and self.training and self.binary is None:
            return self.latent_weight()
        return self.binary_weight()

    def binary_weight(self) -> Tensor:
        """The weights as bits: +c or -c per output channel, shaped as `weight`."""
        if self.binary is not None:
            return self.binary
        weight = self.latent_weight()
        quantise = WEIGHT_QUANTIZERS[self.quantizer]
        return irnet(weight, self.sharpness) if quantise is irnet else quantise(weight)


class BinaryConv2d(nn.Conv2d, BinaryLayer):
    """Conv2d with one-bit weights: [N, C, H, W] -> [N, O, H', W'].

    The bias stays float; there is none by default, since the batch norm that should stand behind it has its own.
    Binarise the input with `BinaryActivation` to make it a one-bit convolution. `padding_value` fills the border:
    +1 keeps a one-bit input one-bit, which zero does not; use 0 for float inputs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        quantizer: str = "dorefa",
        padding_value: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.quantizer = check_name(quantizer, WEIGHT_QUANTIZERS, "weight quantiser")
        self.padding_value = padding_value
        self.lookahead: Tensor | None = None
        self.binary: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = (int(size) for size in self.padding)
        padding = (rows, columns)
        if self.padding_value and any(padding):
            input = F.pad(input, (columns, columns, rows, rows), value=self.padding_value)
            padding = (0, 0)
        return F.conv2d(input, self.used_weight(), self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, quantizer={self.quantizer}, padding_value={self.padding_value:g}"


class BinaryLinear(nn.Linear, BinaryLayer):
    """Linear with one-bit weights: [N, I] -> [N, O]. The bias, if any, stays float."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, quantizer: str = "dorefa") -> None:
        super().__init__(in_features, out_features, bias)
        self.quantizer = check_name(quantizer, WEIGHT_QUANTIZERS, "weight quantiser")
        self.lookahead: Tensor | None = None
        self.binary: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.used_weight(), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, quantizer={self.quantizer}"


class FakeQuantize(nn.Module):
    """The nearest of the numbers (q - zero) * step, q from -128 to 127, with a learnt step and zero; any shape.

    As what the values are is computed with integers of 8 bits, the step has 8 bits of mantissa and the zero is whole.
    Gradients go straight through the rounding; those of step and zero are LSQ's, scaled as there. For a ReLU's results
    (`rectified`) zero stays -128.
    """

    def __init__(self, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        self.log_step = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.full((), -128.0 if rectified else 0.0), requires_grad=not rectified)

    @torch.no_grad()
    def take(self, step: float, zero: int) -> None:
        """Starts from this grid."""
        self.log_step.fill_(math.log2(step))
        if not self.rectified:
            self.offset.fill_(zero)

    @property
    def step(self) -> float:
        return float(_step(self.log_step.detach()))

    @property
    def zero(self) -> int:
        return int(self.offset.detach().clamp(-128, 127).round())

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 / math.sqrt(MOST * max(1, x[0].numel()))
        step = _step(_with_gradient(self.log_step, scale))
        zero = _straight(_with_gradient(self.offset, scale).clamp(-128, 127), torch.round)
        whole = (_straight(x * (1 / step), torch.round) + zero).clamp(-128, 127)
        return (whole - zero) * step

    def extra_repr(self) -> str:
        return f"step={self.step:g}, zero={self.zero}"


def _step(log_step: Tensor) -> Tensor:
    """The float32 of 8 bits of mantissa next to 2 ** log_step."""
    return _straight(torch.exp2(log_step.float()), lambda step: step.bfloat16().float())


def _straight(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function's result with the gradient of the identity."""
    return x + (function(x) - x).detach()


def _with_gradient(x: Tensor, scale: float) -> Tensor:
    """The same with so much of its gradient."""
    return x.detach() + (x - x.detach()) * scale


class RoundedLayer(nn.Module):
    """A float layer whose weights, in each output channel, are rounded to whole numbers from -127 to 127 times a step,
    a 127th of the greatest; gradients go straight through."""

    weight: Tensor

    def rounded_weight(self) -> Tensor:
        """The weights that the forward pass uses, shaped as `weight`."""
        most = self.weight.detach().abs().flatten(1).amax(1)
        step = torch.where(most > 0, most / MOST, 1).view(-1, *[1] * (self.weight.dim() - 1))
        return _straight(self.weight, lambda weight: torch.round(weight / step) * step)


class RoundedConv2d(nn.Conv2d, RoundedLayer):
    """Conv2d with rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.rounded_weight(), self.bias)


class RoundedLinear(nn.Linear, RoundedLayer):
    """Linear with rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.rounded_weight(), self.bias)


def binary_layers(model: nn.Module) -> dict[str, BinaryLayer]:
    """The model's binary layers by name, in the order of registration."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BinaryLayer)}


def grids(model: nn.Module) -> list[nn.Parameter]:
    """What the model's fake quantisers learn."""
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantize)]
    return [parameter for quantizer in quantizers for parameter in quantizer.parameters()]


def sharpened(model: nn.Module) -> list[BinaryLayer | BinaryActivation]:
    """The modules whose gradient depends on their `sharpness` (IR-Net's error decay estimator)."""
    return [
        module
        for module in model.modules()
        if (isinstance(module, BinaryLayer) and module.quantizer == "irnet")
        or (isinstance(module, BinaryActivation) and module.gradient == "ede")
    ]


def narrowable(model: nn.Module) -> list[BinaryActivation]:
    """The modules whose gradient can be `narrowed`."""
    activations = [module for module in model.modules() if isinstance(module, BinaryActivation)]
    return [activation for activation in activations if activation.gradient == "polynomial"]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers of one-bit and of float parameters; buffers such as running statistics are not parameters."""
    binary = sum(layer.weight.numel() for layer in binary_layers(model).values())
    return binary, sum(parameter.numel() for parameter in model.parameters()) - binary


def float_size(model: nn.Module) -> int:
    """Bytes of the model's state dict with every entry as float32, what the model would take without binarisation."""
    return sum(4 * tensor.numel() for tensor in model.state_dict().values() if torch.is_floating_point(tensor))
