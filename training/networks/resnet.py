"""Networks by name: the CIFAR ResNets (He et al. 2015, arXiv 1512.03385, section 4.2), binarised.

With one-bit activations every binary convolution gets its own shortcut (Bi-Real Net, Liu et al. 2018, arXiv
1808.00278): y = BN(conv(sign(x))) + x. With 32-bit activations the blocks are He's: two convolutions, ReLU, one
shortcut. Behind an average pool (`shortcut_pool`: Martinez et al. 2020, Real-to-Binary, arXiv 2003.11535) a shortcut
keeps its shape and loses its stride. Parameter names are those of the full-precision ResNets published with the FSG
reference code.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear, Shift
from fsg.training.registry import MODELS, check_name

Conv = Callable[..., nn.Module]
Sign = Callable[[int], nn.Module]  # of so many channels


def downsampling(in_channels: int, channels: int, stride: int, *, conv: Conv, pool: bool) -> nn.Sequential:
    """A shortcut [N, I, H, W] -> [N, O, H/stride, W/stride], halves rounded up; its layers are named 0 and 1."""
    layers: list[tuple[str, nn.Module]] = []
    if pool and stride > 1:
        layers.append(("pool", nn.AvgPool2d(stride, ceil_mode=True)))
        stride = 1
    layers += [("0", conv(in_channels, channels, 1, stride)), ("1", nn.BatchNorm2d(channels))]
    return nn.Sequential(OrderedDict(layers))


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
            self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class BiRealBlock(BasicBlock):
    """Bi-Real block: the same shapes and parameter names, a shortcut around each convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int, conv: Conv, shortcut: Conv, *, sign: Sign) -> None:
        super().__init__(in_channels, channels, stride, conv, shortcut)
        del self.relu
        self.sign1, self.sign2 = sign(in_channels), sign(channels)

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
        thresholds: bool = False,
        shortcut_pool: bool = False,
    ) -> None:
        super().__init__()
        one_bit = activation_bits == 1
        padding_value = 1.0 if one_bit else 0.0
        conv: Conv = partial(nn.Conv2d, bias=False)
        if quantizer:
            conv = partial(BinaryConv2d, quantizer=quantizer, padding_value=padding_value)

        def sign(channels: int) -> nn.Module:
            activation = BinaryActivation(activation_gradient)
            return nn.Sequential(Shift(channels), activation) if thresholds else activation

        block: Callable[..., nn.Module] = partial(BiRealBlock, sign=sign) if one_bit else BasicBlock
        outer: Conv = partial(nn.Conv2d, bias=False) if first_last == "float" else conv
        binarise = first_last == "binary" and one_bit
        # A binary shortcut would need a sign of its own: with one-bit activations it always stays float.
        across: Conv = partial(nn.Conv2d, bias=False) if one_bit else outer
        shortcut: Conv = partial(downsampling, conv=across, pool=shortcut_pool)

        self.sign = sign(channels) if binarise else nn.Identity()
        self.conv1 = outer(channels, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.Identity() if one_bit else nn.ReLU()
        self.layer1 = self._stage(block, 16, 16, 1, blocks, conv, shortcut)
        self.layer2 = self._stage(block, 16, 32, 2, blocks, conv, shortcut)
        self.layer3 = self._stage(block, 32, 64, 2, blocks, conv, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.bn2: nn.Module = nn.Identity()
        self.sign2 = sign(64) if binarise else nn.Identity()
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
    thresholds: bool = False,
    shortcut_pool: bool = False,
) -> nn.Module:
    """A network of `config.MODELS` with fresh weights; its three stages have 16, 32 and 64 channels.

    `activation_bits`: 1 (XNOR-popcount can run it) or 32. `first_last`: whether the first convolution and the
    classifier (and, with 32-bit activations, the 1x1 shortcuts) stay "float" or become "binary".
    `quantizer` and `activation_gradient`: see `BinaryConv2d` and `BinaryActivation`. `thresholds`: a `Shift` before
    every sign. `shortcut_pool`: an average pool in place of a shortcut's stride. Raises FsgError for an unknown
    name or option.
    """
    blocks = MODELS[check_name(name, MODELS, "model")]
    check_name(first_last, ("float", "binary"), "first-last setting")
    check_name(str(activation_bits), ("1", "32"), "number of activation bits")
    return ResNet(
        blocks,
        channels,
        classes,
        activation_bits,
        first_last,
        quantizer,
        activation_gradient,
        thresholds=thresholds,
        shortcut_pool=shortcut_pool,
    )


def build_float_model(name: str, *, classes: int, channels: int = 3) -> nn.Module:
    """The full-precision network of which `build_model` makes the binary one, with fresh weights.

    Parameter names and shapes are those of the published weights. Raises FsgError for an unknown name.
    """
    blocks = MODELS[check_name(name, MODELS, "model")]
    return ResNet(blocks, channels, classes, 32, "float", quantizer="", activation_gradient="polynomial")
