"""Accuracy of an exported model on a labelled set of images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.runtime.session import Session

_CHUNK = 64  # images between two calls of `progress`, and in memory as float32 at a time


def normalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(images / 255 - mean) / std in float32, as in training.

    Args:
        images: uint8 [N, C, H, W].
        mean, std: one value per channel, for pixels scaled to [0, 1].

    Raises:
        FsgError: the number of channels differs.
    """
    if images.ndim != 4 or not images.shape[1] == len(mean) == len(std):
        raise FsgError(f"images of shape {list(images.shape)} do not fit a mean and std of {len(mean)} channels")
    shift, scale = (np.asarray(v, np.float32).reshape(1, -1, 1, 1) for v in (mean, std))
    return (images.astype(np.float32) / np.float32(255) - shift) / scale


def evaluate(
    session: Session,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Top-1 accuracy of `session` on raw images, normalised with the model's own mean and std.

    Args:
        session: an opened model whose metadata hold mean and std.
        images: uint8 [N, C, H, W].
        labels: integers [N].
        progress: called with the number of images done so far.

    Returns:
        {"accuracy": fraction of images whose highest score is their label's, "samples": N}

    Raises:
        FsgError: shapes that do not fit each other or the model, or a model without mean and std.
    """
    if images.ndim != 4 or images.shape[1:] != session.input_shape:
        raise FsgError(
            f"{session.path}: takes images of {list(session.input_shape)}, but the data set has "
            f"{list(images.shape[1:])}; choose the data set it was trained on"
        )
    if len(images) != len(labels) or not len(images):
        raise FsgError(f"{len(images)} images with {len(labels)} labels cannot be evaluated; give one label each")
    if "mean" not in session.metadata or "std" not in session.metadata:
        raise FsgError(f"{session.path}: says no mean and std to normalise with; export it with `fsg export`")
    mean, std = session.metadata["mean"], session.metadata["std"]
    correct = 0
    for start in range(0, len(images), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        scores = session(normalize(images[chunk], mean, std))
        correct += int(np.count_nonzero(scores.argmax(axis=1) == np.asarray(labels[chunk])))
        if progress is not None:
            progress(min(start + _CHUNK, len(images)))
    return {"accuracy": correct / len(images), "samples": len(images)}
