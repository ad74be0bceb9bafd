"""The binary layers under the name that networks of one's own import them by; they are at home in networks/."""

from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLayer, BinaryLinear, binary_layers

__all__ = ["BinaryActivation", "BinaryConv2d", "BinaryLayer", "BinaryLinear", "binary_layers"]
