"""Full-precision weights as scripts save them, for a network to start from or to be taught by."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.data.archives import is_damaged
from fsg.training.networks.binarize import ADDED_NORM, head_names
from fsg.training.networks.layers import FakeQuantize, Shift

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_state", "weights", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
LEARNT = ("weight", "bias", "running_mean", "running_var")  # what no file may have more of than the model
# What lies beside weights in people's files, and can do nothing: settings, and figures of a training.
HARMLESS = [argparse.Namespace, np.dtype, np.ndarray, type(np.dtype(np.float64)), type(np.dtype(np.float32))]


def load_initial_weights(model: nn.Module, path: Path, what: str = "initial weights") -> list[str]:
    """Loads full-precision weights saved by torch into a model's parameters of the same names.

    The file may hold a state dict, or a dict with one in it, as scripts write them; the names may have the prefixes
    that wrappers of models add. Only entries of our own (batch norms that belong to binary layers, shifts, grids) and
    counts of batches may be missing. A run's checkpoint.pt will do, too. The last layer of a model that `binarize` made
    stays as it is where the file has another number of classes. Returns what had to be done to the file's content, in
    words. Errors: FsgError that names the file, as `what`, and the first entry that does not fit.
    """
    state, notes = read_weights(path, what)
    own = model.state_dict()
    state = _without_prefixes(state, own.keys(), notes)
    ours = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, (Shift, FakeQuantize))
        for part in module.state_dict()
    }
    missing = [name for name in own if name not in state and name not in ours and not _may_be_missing(name)]
    unknown = [name for name in state if name not in own and name.rpartition(".")[2] in LEARNT]
    if missing or unknown:
        problem = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which the model lacks"
        raise FsgError(f"{what} {path}: the file {problem}; is it of another network?")
    if extra := [name for name in state if name not in own]:
        many = "entries that are no weights" if len(extra) > 1 else "entry that is no weight"
        notes.append(f"{len(extra)} {many} left out, such as {extra[0]}")
        state = {name: tensor for name, tensor in state.items() if name in own}
    heads = head_names(model)
    for name, tensor in list(state.items()):
        if tensor.shape != own[name].shape:
            if name.rpartition(".")[0] in heads and tensor.shape[1:] == own[name].shape[1:]:
                del state[name]
                continue
            raise FsgError(f"{what} {path}: {name} is {list(tensor.shape)}, the model needs {list(own[name].shape)}")
    model.load_state_dict(state, strict=False)
    return notes


def read_weights(path: Path, what: str = "weights") -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file by name, floating ones as float32, and what had to be unwrapped to find them.

    Only what torch reads without running code is read. Errors: FsgError that names the file, as `what`.
    """
    if is_damaged(path):
        raise FsgError(f"{what} {path}: the file is damaged; restore it from a copy")
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([*HARMLESS, _numpy_scalar()]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FsgError(f"{what} {path}: no such file") from error
    except Exception as error:  # torch raises many types for broken archives
        raise FsgError(f"{what} {path}: not a state dict that torch can read safely") from error
    notes: list[str] = []
    if isinstance(content, dict) and {"format", "model", "rule"} <= content.keys():  # a checkpoint of our own
        content = {"model": content["model"]}
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), _only_weights(content))
        if key is None:
            break
        notes.append(f"weights found under {key!r}")
        content = content[key]
    state = {str(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors or any(isinstance(value, dict) for value in state.values()):
        raise FsgError(f"{what} {path}: not a state dict of tensors")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise FsgError(f"{what} {path}: {name} holds values that are not finite; take an earlier file")
    if any(tensor.is_floating_point() and tensor.element_size() < 4 for tensor in tensors.values()):
        notes.append("half precision made float32")
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, notes


def _without_prefixes(state: dict[str, Tensor], known: Any, notes: list[str]) -> dict[str, Tensor]:
    """The entries without what wrappers put in front of names, as long as the model has none of them."""
    while not any(name in known for name in state):
        prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in state)), None)
        if prefix is None:
            break
        notes.append(f"names taken without {prefix!r}")
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _only_weights(content: dict[Any, Any]) -> Any:
    """The key of the only state dict in a file's content, itself wrapped or not; None if there are none or more."""
    keys = [
        key
        for key, value in content.items()
        if isinstance(value, dict)
        and (any(name in value for name in WRAPPERS) or any(isinstance(entry, Tensor) for entry in value.values()))
    ]
    return keys[0] if len(keys) == 1 else None


def _may_be_missing(name: str) -> bool:
    """Batch norms that belong to binary layers are ours; how many batches a norm has seen is no weight."""
    return name.startswith("bn2.") or ADDED_NORM in name or name.endswith("num_batches_tracked")


def _numpy_scalar() -> Any:
    """What NumPy's scalars are pickled by."""
    return np.float64(0).__reduce__()[0]
