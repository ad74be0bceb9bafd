"""Networks by name: the CIFAR ResNets (He et al. 2015, arXiv 1512.03385, section 4.2), binarised.

With one-bit activations every binary convolution gets its own shortcut (Bi-Real Net, Liu et al. 2018, arXiv
1808.00278): y = BN(conv(sign(x))) + x. With 32-bit activations the blocks are He's: two convolutions, ReLU, one
shortcut. Parameter names are those of the full-precision ResNets published with the FSG reference code.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear
from fsg.training.registry import MODELS, check_name

Conv = Callable[..., nn.Module]


class BasicBlock(nn.Module):
    """He's block: [N, I, H, W] -> [N, O, H/stride, W/stride], one shortcut around two convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int, conv: Conv, shortcut: Conv) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(shortcut(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class BiRealBlock(BasicBlock):
    """Bi-Real block: the same shapes and parameter names, a shortcut around each convolution."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, conv: Conv, shortcut: Conv, *, sign: Callable[[], nn.Module]
    ) -> None:
        super().__init__(in_channels, channels, stride, conv, shortcut)
        del self.relu
        self.sign1, self.sign2 = sign(), sign()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(self.sign1(x))) + self.downsample(x)
        return self.bn2(self.conv2(self.sign2(y))) + y


class ResNet(nn.Module):
    """CIFAR ResNet: [N, C, H, W] normalised images -> [N, classes] logits; without a quantiser all is float."""

    def __init__(
        self,
        blocks: int,
        channels: int,
        classes: int,
        activation_bits: int,
        first_last: str,
        quantizer: str,
        activation_gradient: str,
    ) -> None:
        super().__init__()
        one_bit = activation_bits == 1
        padding_value = 1.0 if one_bit else 0.0
        conv: Conv = partial(nn.Conv2d, bias=False)
        if quantizer:
            conv = partial(BinaryConv2d, quantizer=quantizer, padding_value=padding_value)
        sign = partial(BinaryActivation, activation_gradient)
        block: Callable[..., nn.Module] = partial(BiRealBlock, sign=sign) if one_bit else BasicBlock
        outer: Conv = partial(nn.Conv2d, bias=False) if first_last == "float" else conv
        binarise = first_last == "binary" and one_bit
        # A binary shortcut would need a sign of its own: with one-bit activations it always stays float.
        shortcut: Conv = partial(nn.Conv2d, bias=False) if one_bit else outer

        self.sign = sign() if binarise else nn.Identity()
        self.conv1 = outer(channels, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.Identity() if one_bit else nn.ReLU()
        self.layer1 = self._stage(block, 16, 16, 1, blocks, conv, shortcut)
        self.layer2 = self._stage(block, 16, 32, 2, blocks, conv, shortcut)
        self.layer3 = self._stage(block, 32, 64, 2, blocks, conv, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.bn2: nn.Module = nn.Identity()
        self.sign2 = sign() if binarise else nn.Identity()
        if first_last == "binary":
            self.bn2 = nn.BatchNorm1d(64)
            self.fc: nn.Module = BinaryLinear(64, classes, quantizer=quantizer)
        else:
            self.fc = nn.Linear(64, classes)

    @staticmethod
    def _stage(
        block: Callable[..., nn.Module],
        in_channels: int,
        channels: int,
        stride: int,
        blocks: int,
        conv: Conv,
        shortcut: Conv,
    ) -> nn.Sequential:
        first = block(in_channels, channels, stride, conv, shortcut)
        return nn.Sequential(first, *(block(channels, channels, 1, conv, shortcut) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(self.sign(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.sign2(self.bn2(self.flatten(self.pool(x)))))


def build_model(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    activation_bits: int = 1,
    first_last: str = "float",
    quantizer: str = "dorefa",
    activation_gradient: str = "polynomial",
) -> nn.Module:
    """A network of `config.MODELS` with fresh weights; its three stages have 16, 32 and 64 channels.

    `activation_bits`: 1 (XNOR-popcount can run it) or 32. `first_last`: whether the first convolution and the
    classifier (and, with 32-bit activations, the 1x1 shortcuts) stay "float" or become "binary".
    `quantizer` and `activation_gradient`: see `BinaryConv2d` and `BinaryActivation`. Raises FsgError for an unknown
    name or option.
    """
    blocks = MODELS[check_name(name, MODELS, "model")]
    check_name(first_last, ("float", "binary"), "first-last setting")
    check_name(str(activation_bits), ("1", "32"), "number of activation bits")
    return ResNet(blocks, channels, classes, activation_bits, first_last, quantizer, activation_gradient)


def build_float_model(name: str, *, classes: int, channels: int = 3) -> nn.Module:
    """The full-precision network of which `build_model` makes the binary one, with fresh weights.

    Parameter names and shapes are those of the published weights. Raises FsgError for an unknown name.
    """
    blocks = MODELS[check_name(name, MODELS, "model")]
    return ResNet(blocks, channels, classes, 32, "float", quantizer="", activation_gradient="polynomial")
