"""Two networks of one's own: `fsg train --model mynet:make` and `fsg train --model mynet:make_binary`."""

import torch
from torch import Tensor, nn

from fsg.training.layers import BinaryActivation, BinaryConv2d


class Block(nn.Module):
    """Two convolutions with a shortcut, [N, I, H, W] -> [N, O, H / stride, W / stride], as in any ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def make(num_classes: int, in_channels: int) -> nn.Module:
    """Plain PyTorch in float32: fsg makes it binary by rule, all but its first and last layer and 1x1 shortcuts."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 32, stride=2),
        Block(32, 64, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def make_binary(num_classes: int, in_channels: int) -> nn.Module:
    """Like a small VGG, with layers of fsg where it is to be binary: taken as it is.

    Between its binary convolutions stand a max pool and a batch norm alone, and they pad with +1, so values stay bits
    from one to the next.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        BinaryActivation(),
        BinaryConv2d(32, 64, 3, padding=1, padding_value=1),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(2),
        BinaryActivation(),
        BinaryConv2d(64, 64, 3, padding=1, padding_value=1),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, num_classes),
    )
