"""Published binary networks as their papers and repositories have them, of fsg's layers and at their usual size."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsg.training.layers import BinaryActivation, BinaryConv2d, BinaryLinear


def binary(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return BinaryConv2d(inputs, outputs, kernel, stride, kernel // 2)


def shift(channels: int, value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full((1, channels, 1, 1), value))


class RSign(nn.Module):
    """A sign with a threshold of its own for each channel (ReActNet, arXiv 2003.03488)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias, self.sign = shift(channels), BinaryActivation()

    def forward(self, x: Tensor) -> Tensor:
        return self.sign(x + self.bias)


class RPReLU(nn.Module):
    """A PReLU that is shifted on both axes (ReActNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.after, self.prelu = shift(channels), shift(channels), nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(x - self.before) + self.after


class ReActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.sign, self.conv, self.norm = RSign(inputs), binary(inputs, inputs, 3, stride), nn.BatchNorm2d(inputs)
        self.act, self.sign2 = RPReLU(inputs), RSign(inputs)
        self.points = nn.ModuleList(binary(inputs, inputs, 1) for _ in range(outputs // inputs))
        self.norms = nn.ModuleList(nn.BatchNorm2d(inputs) for _ in self.points)
        self.act2 = RPReLU(outputs)
        self.pool = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(self.sign(x))) + self.pool(x))
        signs = self.sign2(x)
        parts = [norm(point(signs)) + x for point, norm in zip(self.points, self.norms, strict=True)]
        return self.act2(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])


class ReActNet(nn.Sequential):
    """ReActNet-A."""

    def __init__(self, classes: int = 1000) -> None:
        widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)),
            *(ReActBlock(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(1024, classes),
        )


class GatedBlock(nn.Module):
    """A small float network says of the input how to scale the channels of the output (arXiv 2003.11535)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm, self.sign, self.conv = nn.BatchNorm2d(inputs), BinaryActivation(), binary(inputs, outputs, 3, stride)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, inputs // 8), nn.ReLU(inplace=True)
        )
        self.gate.append(nn.Linear(inputs // 8, outputs)).append(nn.Sigmoid())
        self.act = nn.PReLU(outputs)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(
                nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        scale = self.gate(y)
        scale = scale.view(scale.size(0), scale.size(1), 1, 1)
        y = self.conv(self.sign(y))
        return self.act(y * scale.expand_as(y)) + self.down(x)


class RealToBinary(nn.Sequential):
    """Real-to-Binary Net on ResNet-18, with gates."""

    def __init__(self, classes: int = 1000) -> None:
        blocks: list[nn.Module] = []
        width = 64
        for outputs in (64, 128, 256, 512):
            for place in range(4):
                blocks.append(GatedBlock(width, outputs, 2 if place == 0 and outputs > 64 else 1))
                width = outputs
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.PReLU(64), nn.MaxPool2d(3, 2, 1)]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class Blur(nn.Module):
    """Blur pooling with a fixed kernel (arXiv 1904.11486)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", ((row[:, None] * row) / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel, stride=2, groups=x.shape[1])


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sign, self.conv, self.norm = BinaryActivation(), binary(channels, channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(F.relu(self.conv(self.sign(x))))


class QuickNet(nn.Sequential):
    """Like QuickNet (arXiv 2011.09398): a cheap stem, residual blocks of one layer, blur pooling between stages."""

    def __init__(self, classes: int = 1000) -> None:
        layers: list[nn.Module] = [
            *(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False), nn.BatchNorm2d(16)),
            *(nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64)),
        ]
        widths = [64, 128, 256, 512]
        for i, width in enumerate(widths):
            if i:
                layers += [nn.ReLU(), nn.MaxPool2d(2, 1), Blur(widths[i - 1])]
                layers += [nn.Conv2d(widths[i - 1], width, 1, bias=False), nn.BatchNorm2d(width)]
            layers += [Residual(width) for _ in range(3)]
        super().__init__(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class Dense(nn.Module):
    """Adds channels to what there is (BinaryDenseNet, arXiv 1906.08637)."""

    def __init__(self, inputs: int, grown: int = 64) -> None:
        super().__init__()
        self.norm, self.sign, self.conv = nn.BatchNorm2d(inputs), BinaryActivation(), binary(inputs, grown)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(self.sign(self.norm(x)))), dim=1)


class Improve(nn.Module):
    """Improves the channels that were added last (MeliusNet, arXiv 2001.05936)."""

    def __init__(self, channels: int, last: int = 64) -> None:
        super().__init__()
        self.last = last
        self.norm, self.sign, self.conv = nn.BatchNorm2d(channels), BinaryActivation(), binary(channels, last)

    def forward(self, x: Tensor) -> Tensor:
        kept, improved = x[:, : -self.last], x[:, -self.last :]
        return torch.cat([kept, improved + self.conv(self.sign(self.norm(x)))], dim=1)


def grouped_stem() -> list[nn.Module]:
    return [
        *(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 1, 1, groups=4, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    ]


def transition(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(inputs), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False)]


class Melius(nn.Sequential):
    """Like MeliusNet."""

    def __init__(self, classes: int = 1000) -> None:
        layers, width = grouped_stem(), 64
        for stage, blocks in enumerate((2, 2, 3)):
            for _ in range(blocks):
                layers += [Dense(width), Improve(width + 64)]
                width += 64
            if stage < 2:
                layers += transition(width, width // 2)
                width //= 2
        super().__init__(
            *layers, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )


class BinaryDenseNet(nn.Sequential):
    """Like BinaryDenseNet."""

    def __init__(self, classes: int = 1000) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
        width = 64
        for stage, blocks in enumerate((3, 3, 4)):
            for _ in range(blocks):
                layers.append(Dense(width))
                width += 64
            if stage < 2:
                layers += transition(width, width // 2)
                width //= 2
        super().__init__(
            *layers, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )


class MLP(nn.Sequential):
    def __init__(self, classes: int = 10) -> None:
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(784, 512), nn.BatchNorm1d(512)]
        for _ in range(2):
            layers += [BinaryActivation(), BinaryLinear(512, 512, bias=False), nn.BatchNorm1d(512)]
        super().__init__(*layers, BinaryActivation(), BinaryLinear(512, classes), nn.LogSoftmax(dim=1))


class VGGSmall(nn.Sequential):
    def __init__(self, classes: int = 10) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, 1, 1, bias=False), nn.BatchNorm2d(128)]
        width = 128
        for outputs, pools in ((128, True), (256, False), (256, True), (512, False), (512, True)):
            layers += [BinaryActivation(), binary(width, outputs), *([nn.MaxPool2d(2)] if pools else [])]
            layers.append(nn.BatchNorm2d(outputs))
            width = outputs
        super().__init__(*layers, nn.Hardtanh(), nn.Flatten(), nn.Linear(512 * 16, classes))


class Twice(nn.Module):
    """A block of Bi-Real Net."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.sign, self.conv, self.norm = (
            BinaryActivation(),
            binary(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
        )
        self.down: nn.Module = nn.Identity()
        if stride > 1:
            convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.down = nn.Sequential(nn.AvgPool2d(2), convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.sign(x))) + self.down(x)


class BiReal(nn.Sequential):
    """Bi-Real Net on ResNet-18 (arXiv 1808.00278)."""

    def __init__(self, classes: int = 1000) -> None:
        blocks: list[nn.Module] = []
        width = 64
        for outputs in (64, 128, 256, 512):
            for place in range(4):
                blocks.append(Twice(width, outputs, 2 if place == 0 and outputs > 64 else 1))
                width = outputs
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def resnet20() -> nn.Module:
    from fsg.training.networks.resnet import build_model

    return build_model("resnet20", classes=10)


ZOO: dict[str, tuple[Any, tuple[int, int, int], int]] = {
    "ResNet-20": (resnet20, (3, 32, 32), 18),
    "Bi-Real ResNet-18": (BiReal, (3, 224, 224), 16),
    "ReActNet-A": (ReActNet, (3, 224, 224), 31),
    "Real-to-Binary": (RealToBinary, (3, 224, 224), 16),
    "QuickNet": (QuickNet, (3, 224, 224), 12),
    "MeliusNet": (Melius, (3, 224, 224), 14),
    "BinaryDenseNet": (BinaryDenseNet, (3, 224, 224), 10),
    "MLP": (MLP, (1, 28, 28), 3),
    "VGG-small": (VGGSmall, (3, 32, 32), 5),
}
"""By name: what makes it, the shape of its images, and how many binary layers it has."""


def trained(name: str, steps: int = 2) -> nn.Module:
    """A network after a few steps on random images, so that its statistics and weights are no initial ones."""
    torch.manual_seed(0)
    make, shape, _ = ZOO[name]
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 4 and parameter.shape[0] == 1:  # thresholds and shifts
                parameter.uniform_(-0.1, 0.1)
    for _ in range(steps):
        loss = F.cross_entropy(model(torch.randn(8, *shape)), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
