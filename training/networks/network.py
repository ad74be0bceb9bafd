"""The network that a run trains, and full-precision weights to start it from."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.data.files import MAX_CLASSES
from fsg.training.data.sets import DataInfo
from fsg.training.networks.binarize import ADDED_NORM, head_names
from fsg.training.networks.external import build_external
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
        return build_external(config.model, shape=data.shape, **options)
    return build_model(config.model, channels=data.shape[0], **options)


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


def load_initial_weights(model: nn.Module, path: Path, what: str = "initial weights") -> None:
    """Loads full-precision weights (a state dict saved by torch) into a model's parameters of the same names.

    Only entries of our own (batch norms that belong to binary layers) may be missing from the file. The last layer of
    a model that `binarize` made stays as it is where the file has another number of classes. Errors: FsgError that
    names the file, as `what`, and the first entry that does not fit.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FsgError(f"{what} {path}: no such file") from error
    except Exception as error:  # torch raises many types for broken archives
        raise FsgError(f"{what} {path}: not a state dict that torch can read safely") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise FsgError(f"{what} {path}: not a state dict of tensors")
    own = model.state_dict()
    ours = [name for name in own if name.startswith("bn2.") or ADDED_NORM in name]
    missing = [name for name in own if name not in state and name not in ours]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        problem = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which the model lacks"
        raise FsgError(f"{what} {path}: the file {problem}; is it of another network?")
    heads = head_names(model)
    for name, tensor in list(state.items()):
        if tensor.shape != own[name].shape:
            if name.rpartition(".")[0] in heads and tensor.shape[1:] == own[name].shape[1:]:
                del state[name]
                continue
            raise FsgError(f"{what} {path}: {name} is {list(tensor.shape)}, the model needs {list(own[name].shape)}")
    model.load_state_dict(state, strict=False)
