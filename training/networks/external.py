"""Networks that are not fsg's own: torchvision's, and those that a user's function makes."""

import difflib
import importlib
import inspect
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from fsg import FsgError
from fsg.training.data.vision import import_torchvision
from fsg.training.networks.binarize import binarize
from fsg.training.networks.layers import binary_layers
from fsg.training.networks.trace import copied, quiet_failures

Shape = tuple[int, int, int]


def build_external(name: str, *, classes: int, shape: Shape, **options: Any) -> nn.Module:
    """The binary network that "torchvision:NAME" or "MODULE:FACTORY" names, for images of `shape` (C, H, W).

    A model that has binary layers already is taken as it is; any other goes through `binarize` with `options`.
    Errors: FsgError where there is no such model, where it cannot become binary, and where it does not take such images
    or does not give one logit per class.
    """
    model = float_model(name, classes=classes, shape=shape)
    if not binary_layers(model):
        model = binarize(model, **options)
    _check(name, model, classes, shape)
    return model


def float_model(name: str, *, classes: int, shape: Shape) -> nn.Module:
    """The model as torchvision or the user's factory makes it, with fresh weights."""
    module, _, factory = name.partition(":")
    if module == "torchvision":
        return _torchvision_model(factory, classes, shape)
    return _factory_model(module, factory, classes, shape)


def _check(name: str, model: nn.Module, classes: int, shape: Shape) -> None:
    """Runs the model once in evaluation mode."""
    training = model.training
    try:
        with torch.no_grad(), quiet_failures():
            logits = model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # whatever the model's layers raise
        raise FsgError(f"model {name} cannot run on an image of shape {list(shape)}: {_first_line(error)}") from error
    finally:
        model.train(training)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FsgError(f"model {name}: all of its parameters are frozen (requires_grad is False); leave some to learn")
    got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if got != [1, classes]:
        raise FsgError(
            f"model {name} gives {got} for an image, but the data have {classes} classes: it must give [N, {classes}]"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- torchvision ------------------------------------------------------------------------------------------
def _torchvision_model(name: str, classes: int, shape: Shape) -> nn.Module:
    """A classification model of torchvision; weights are never downloaded.

    Where the images have another number of channels than three, the first convolution is a new one. Where they are
    too small for the average pool in front of a classifier of several layers (VGG, AlexNet), the pool gives what there
    is and the classifier starts with a smaller layer.
    """
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise FsgError(f"torchvision has no classification model {name!r}; {hint}")
    special = {"googlenet": {"aux_logits": False, "init_weights": True}, "inception_v3": {"aux_logits": False}}
    model = models.get_model(name, weights=None, num_classes=classes, **special.get(name, {}))
    if shape[0] != 3:
        _take_channels(model, shape[0])
    pool = getattr(model, "avgpool", None)
    if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size not in (1, (1, 1)):
        _fit_pool(name, model, pool, shape)
    return model


def _take_channels(model: nn.Module, channels: int) -> None:
    path, old = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    options = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    parent, _, child = path.rpartition(".")
    new = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **options)
    setattr(model.get_submodule(parent), child, new)


def _fit_pool(name: str, model: Any, pool: nn.AdaptiveAvgPool2d, shape: Shape) -> None:
    try:
        with torch.no_grad():
            _, channels, *size = model.features(torch.zeros(1, *shape)).shape
    except RuntimeError as error:
        raise FsgError(f"torchvision:{name} cannot run on images of {list(shape)}: {_first_line(error)}") from error
    wanted = pool.output_size if isinstance(pool.output_size, tuple) else (pool.output_size, pool.output_size)
    fitting = tuple(min(have, want or have) for have, want in zip(size, wanted, strict=True))
    if fitting == wanted:
        return
    model.avgpool = nn.AdaptiveAvgPool2d(fitting)
    index, old = next((i, layer) for i, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear))
    model.classifier[index] = nn.Linear(channels * fitting[0] * fitting[1], old.out_features)


# --- a user's factory -------------------------------------------------------------------------------------
def _factory_model(module_name: str, factory_name: str, classes: int, shape: Shape) -> nn.Module:
    """Calls MODULE.FACTORY with those of num_classes and in_channels that it takes."""
    name = f"{module_name}:{factory_name}"
    factory: Any = _import(name, module_name, factory_name)
    for part in factory_name.split("."):
        if not hasattr(factory, part):
            raise FsgError(f"model {name}: {module_name} has no {factory_name!r}; write MODULE:FACTORY")
        factory = getattr(factory, part)
    if not callable(factory):
        raise FsgError(f"model {name}: it is a {type(factory).__name__}; name a function or class that makes the model")
    if isinstance(factory, nn.Module):
        return _plain(copied(factory), shape)
    offered = {"num_classes": classes, "in_channels": shape[0]}
    try:
        parameters = inspect.signature(factory).parameters
        model = factory(**{key: value for key, value in offered.items() if key in parameters})
    except FsgError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise FsgError(f"model {name} failed: {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise FsgError(f"model {name} made a {type(model).__name__}; it must return a torch.nn.Module")
    return _plain(model, shape)


def _plain(model: nn.Module, shape: Shape) -> nn.Module:
    """The model in single precision, out of what wraps it for speed, its lazy layers as large as they need be."""
    while inner := getattr(model, "_orig_mod", model.module if isinstance(model, nn.DataParallel) else None):
        model = inner
    if any(isinstance(module, LazyModuleMixin) for module in model.modules()):
        with torch.no_grad(), suppress(Exception):  # `_check` says what is wrong with it
            model.eval()(torch.zeros(1, *shape))
            model.train()
    return model.float()


def _import(name: str, module_name: str, factory: str) -> ModuleType:
    """Imports a module of the current folder or of the Python path."""
    path = Path(module_name)
    if path.suffix == ".py" or len(path.parts) > 1:
        folder = f" in the folder {path.parent}" if len(path.parts) > 1 else ""
        raise FsgError(f"model {name}: name the module, not its file: --model {path.stem}:{factory}{folder}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's own code
        missing = isinstance(error, ModuleNotFoundError) and error.name in (module_name, module_name.partition(".")[0])
        if missing:
            raise FsgError(
                f"model {name}: there is no module {module_name} in {here} or on the Python path;"
                " run fsg in the folder that has it, or set PYTHONPATH"
            ) from error
        line = f"{type(error).__name__}: {_first_line(error)}"
        raise FsgError(f"model {name}: importing {module_name} failed: {line}") from error
