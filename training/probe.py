"""What the network of a checkpoint computes, so that one whose code was changed since is noticed."""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.checkpoint import CHECKPOINT
from fsg.training.networks.trace import quiet_failures

IMAGES = 4
MAX_MEDIAN = 1e-4
"""Of the difference, for logits around 1; in proportion for others. Other machines are off by 1e-12 or so, in a network
that computes in float32 whatever it is given by more, in the images where that flips a sign."""


def probe(model: nn.Module, shape: tuple[int, int, int]) -> Tensor | None:
    """Logits [4, classes] of fixed normal images of `shape` (C, H, W), computed on the CPU in evaluation mode.

    In float64 where the model can: rounding then flips no sign. The model and torch's random numbers stay as they are.
    None for a model that cannot be probed: it cannot be copied, or its logits are not finite.
    """
    images = np.random.RandomState(0).standard_normal((IMAGES, *shape)).astype(np.float32)
    for dtype in (torch.float64, torch.float32):
        try:
            copied = copy.deepcopy(model).cpu().float().to(dtype).eval()
            with torch.no_grad(), quiet_failures(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                logits = torch.cat([copied(image) for image in torch.from_numpy(images).to(dtype).split(1)])
        except Exception:  # whatever a user's layers raise
            continue
        return logits.double() if logits.isfinite().all() else None
    return None


def require_same(model: nn.Module, shape: tuple[int, int, int], expected: Tensor | None, run: Path, name: str) -> None:
    """Raises FsgError if `model`, called `name` in its run, does not compute the probe `expected` of its checkpoint.

    Checkpoints of earlier versions have none, and are taken as they are.
    """
    if expected is None:
        return
    found = probe(model, shape)
    limit = MAX_MEDIAN * float(expected.abs().mean())
    if found is None or found.shape != expected.shape or not float((found - expected).abs().median()) <= limit:
        raise FsgError(
            f"{run}: the model {name} no longer computes what it did when {CHECKPOINT} was written: its code, or"
            " config.toml or fsg itself, was changed since; undo that change, or train anew"
        )
