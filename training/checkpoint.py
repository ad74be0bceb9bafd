"""The folder of a run and its checkpoint.

    config.toml      the settings                     metrics.csv    one row per epoch
    checkpoint.pt    after every epoch                flips.csv      the same, one column per binary layer
    curves.png       when training has ended          summary.json   when it was not interrupted
    events.*         for TensorBoard, if wanted

checkpoint.pt is a torch.save archive of plain containers and tensors: format, epoch, model (state dict; with `ema` the
averaged one), latent (with `ema`: the state dict that training continues from), data (class names, normalisation,
image shape), rule (optimizers, hypernetworks, history), rows, flips, steps, seconds and hypernetwork_parameters.
Reading the model leaves the tensors of `rule` on the disk.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsg import FsgError, __version__, replacing
from fsg.training.binarize import ADDED_NORM, head_names
from fsg.training.config import FORMAT, Config, check_format, load_config
from fsg.training.external import build_external
from fsg.training.methods import quantizers
from fsg.training.models import build_model

CHECKPOINT = "checkpoint.pt"
EVALUATION_PIXELS = 256 * 64 * 64
"""In one batch: so the values inside a network fit into memory whatever the size of the images."""


@dataclass(frozen=True)
class DataInfo:
    """What a model must know of its training data: `shape` is (C, H, W), mean and std are of pixels / 255."""

    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Run:
    """A trained model as read from its run folder, without the hypernetworks.

    Calling it gives logits [N, classes] of normalised images [N, C, H, W], float32 arrays both, as an opened model
    file does.
    """

    path: Path
    config: Config
    model: nn.Module
    data: DataInfo
    epoch: int
    hypernetwork_parameters: int

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return predict(self.model, torch.from_numpy(images)).numpy()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.data.shape

    @property
    def metadata(self) -> dict[str, Any]:
        """What travels in exported files: where the model is from, how to normalise its input, its classes."""
        return {
            "fsg_version": __version__,
            "model": self.config.model,
            "method": self.config.method,
            "dataset": self.config.dataset,
            "epochs": self.epoch,
            "seed": self.config.seed,
            "activation_bits": self.config.activation_bits,
            "class_names": list(self.data.class_names),
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "input_shape": [1, *self.data.shape],
        }


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits [N, classes] of normalised images [N, C, H, W], in evaluation mode."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(evaluation_batch(images))])


def evaluation_batch(images: Tensor) -> int:
    """How many of the images [N, C, H, W] to take at once, at most 256."""
    height, width = images.shape[2:]
    return min(256, max(1, EVALUATION_PIXELS // (height * width)))


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Replaces checkpoint.pt in one step, so that a kill at any moment leaves the old or the new one."""
    path = folder / CHECKPOINT
    with replacing(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise FsgError(f"cannot write {path}: is the disk full? The checkpoint before it is kept") from error


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Reads checkpoint.pt; tensors stay memory-mapped until they are used.

    Errors: FsgError for a missing or broken file and for another version.
    """
    path = folder / CHECKPOINT
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise FsgError(
            f"{folder} has no {CHECKPOINT} yet: its first epoch was not finished; fsg train --resume {folder}"
        ) from error
    except Exception as error:  # torch raises many types for broken archives
        raise FsgError(f"cannot read {path}: it is truncated or no checkpoint; train anew") from error
    if not isinstance(content, dict):
        raise FsgError(f"cannot read {path}: it is no checkpoint of fsg")
    check_format(content.get("format"), path)
    return content


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


def digest(folder: Path) -> str:
    """What tells the weights of a run folder from those it has after more training; FsgError if there are none."""
    path = folder / CHECKPOINT
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FsgError(f"{path}: cannot be read ({error.strerror}); it holds the run's weights") from error


def open_run(folder: Path) -> Run:
    """Reads the model of a run, in evaluation mode. Errors: FsgError, see `load_config` and `read_checkpoint`."""
    config = load_config(folder / "config.toml")
    content = read_checkpoint(folder)
    try:
        data = DataInfo(**content["data"])
        model = model_for(config, data)
        model.load_state_dict(content["model"])
        epoch, hypernetwork_parameters = content["epoch"], content["hypernetwork_parameters"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise FsgError(f"{folder / CHECKPOINT} does not fit {folder / 'config.toml'}: train anew") from error
    return Run(folder, config, model.eval(), data, epoch, hypernetwork_parameters)


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
