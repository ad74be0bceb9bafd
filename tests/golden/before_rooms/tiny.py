"""A network of someone's own, with binary layers under the names that programs import them by."""

from torch import nn

from fsg.training.layers import BinaryActivation, BinaryConv2d


def make(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        BinaryActivation(),
        BinaryConv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        BinaryActivation(),
        BinaryConv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )
