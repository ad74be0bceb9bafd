"""`binarize` under the name that programs import it by; it is at home in networks/."""

from fsg.training.networks.binarize import binarize, float_layers

__all__ = ["binarize", "float_layers"]
