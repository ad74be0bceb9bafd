"""The network that a run trains."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.data.files import MAX_CLASSES
from fsg.training.data.sets import DataInfo
from fsg.training.networks.external import build_external
from fsg.training.networks.int8 import int8_aware
from fsg.training.networks.resnet import build_model
from fsg.training.registry import quantizers

MAX_VALUES = 2**24  # of an image: 4096 x 1365 pixels in three colours


def model_for(config: Config, data: DataInfo) -> nn.Module:
    """The network that a run trains, with fresh weights."""
    quantizer, activation_gradient = quantizers(config)
    options: dict[str, Any] = {
        "classes": len(data.class_names),
        "activation_bits": config.activation_bits,
        "first_last": config.first_last,
        "quantizer": quantizer,
        "activation_gradient": activation_gradient,
    }
    if ":" in config.model:
        keep_float = tuple(filter(None, map(str.strip, config.keep_float.split(","))))
        options |= {"keep_float": keep_float, "shortcut": config.shortcut}
        model = build_external(config.model, shape=data.shape, **options)
        return int8_aware(model) if config.int8_aware else model
    options |= {"thresholds": config.thresholds, "shortcut_pool": config.shortcut_pool}
    model = build_model(config.model, channels=data.shape[0], **options)
    return int8_aware(model) if config.int8_aware else model


def named_model(
    name: str, *, shape: Sequence[int], classes: int, activation_bits: int = 1, first_last: str = "float"
) -> nn.Module:
    """The network of a name as `fsg train --model` takes it, for images of `shape` (C, H, W), with fresh weights.

    Errors: FsgError for a name or sizes that make no network.
    """
    given = f"--shape {','.join(map(str, shape))} --classes {classes}"
    if len(shape) != 3 or classes < 2:
        raise FsgError(f"{given}: give channels, height and width, and 2 classes or more")
    if math.prod(shape) > MAX_VALUES or classes > MAX_CLASSES:
        raise FsgError(f"{given}: give at most {MAX_VALUES:,} values an image, and {MAX_CLASSES:,} classes")
    channels, height, width = shape
    data = DataInfo(tuple(map(str, range(classes))), (), (), (channels, height, width))
    return model_for(Config(model=name, activation_bits=activation_bits, first_last=first_last), data)
