"""The checkpoint of a run.

checkpoint.pt is a torch.save archive of plain containers and tensors: format, epoch, model (state dict; with `ema` the
averaged one), latent (with `ema`: the state dict that training continues from), data (class names, normalisation,
image shape), probe (logits of fixed images, see probe.py), rule (optimizers, hypernetworks, history), rows, flips,
steps, seconds and hypernetwork_parameters.
Reading the model leaves the tensors of `rule` on the disk. best.pt is the same of the epoch with the highest test
accuracy, without what only training needs.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from fsg import FsgError, replacing, shell_command
from fsg.training.config import FORMAT, check_format
from fsg.training.data.archives import is_damaged

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"
OF_BEST = ("epoch", "data", "rows", "hypernetwork_parameters", "probe", "model")
"""What best.pt has of a checkpoint."""


def save_checkpoint(folder: Path, content: dict[str, Any], name: str = CHECKPOINT) -> None:
    """Replaces a checkpoint in one step, so that a kill at any moment leaves the old or the new one."""
    path = folder / name
    with replacing(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise FsgError(f"cannot write {path}: is the disk full? The checkpoint before it is kept") from error


def read_checkpoint(folder: Path, name: str = CHECKPOINT) -> dict[str, Any]:
    """Reads checkpoint.pt, or best.pt; tensors stay memory-mapped until they are used.

    Errors: FsgError for a missing or broken file, be it one byte, and for another version.
    """
    path = folder / name
    if is_damaged(path):
        raise FsgError(f"cannot read {path}: it is damaged; restore it from a copy, or train anew")
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        if name == BEST:
            raise FsgError(f"{folder} has no {BEST}, as of an earlier version of fsg: leave --best away") from error
        raise FsgError(
            f"{folder} has no {CHECKPOINT} yet: its first epoch was not finished;"
            f" {shell_command('train', '--resume', folder)}"
        ) from error
    except Exception as error:  # torch raises many types for broken archives
        raise FsgError(f"cannot read {path}: it is truncated or no checkpoint; train anew") from error
    if not isinstance(content, dict):
        raise FsgError(f"cannot read {path}: it is no checkpoint of fsg")
    check_format(content.get("format"), path)
    return content


def digest(folder: Path, name: str = CHECKPOINT) -> str:
    """What tells the weights of a run folder from those it has after more training; FsgError if there are none."""
    path = folder / name
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FsgError(f"{path}: cannot be read ({error.strerror}); it holds the run's weights") from error
