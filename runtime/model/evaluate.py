"""Accuracy of an exported model on a labelled set of images."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fsg import FsgError
from fsg.runtime.model.classes import confusion

CHUNK = 64  # images between two calls of `progress`, and in memory as float32 at a time


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


def to_pixels(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The raw images, uint8, that `normalize` made these of."""
    shift, scale = (np.asarray(v, np.float32).reshape(1, -1, 1, 1) for v in (mean, std))
    return np.clip(np.rint((images * scale + shift) * np.float32(255)), 0, 255).astype(np.uint8)


class Classifier(Protocol):
    """What can be evaluated: an opened model file, or a run."""

    @property
    def path(self) -> Path: ...

    @property
    def metadata(self) -> dict[str, Any]: ...

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    def __call__(self, images: np.ndarray, /) -> np.ndarray: ...


def evaluate(
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Top-1 accuracy of `model` on raw images, normalised with the model's own mean and std.

    Args:
        model: an opened model, or a run, whose metadata hold mean, std and class_names.
        images: uint8 [N, C, H, W].
        labels: integers [N], indices into class_names.
        class_names: of the data set; another order than the model's is put right.
        progress: called with the number of images done so far.

    Returns:
        {"accuracy": fraction of images whose highest score is their label's, "samples": N, "confusion": how many images
        [class, what it was taken for], in the order of the model's classes}

    Raises:
        FsgError: shapes or classes that do not fit the model, or a model without mean and std.
    """
    statistics(model, images)
    if len(images) != len(labels) or not len(images):
        raise FsgError(f"{len(images)} images with {len(labels)} labels cannot be evaluated; give one label each")
    labels = match_labels(model, labels, class_names)
    classes = len(model.metadata.get("class_names", class_names))
    matrix = np.zeros((classes, classes), np.int64)
    for start in range(0, len(images), CHUNK):
        chunk = slice(start, start + CHUNK)
        matrix += confusion(labels[chunk], scores(model, images[chunk], classes).argmax(axis=1), classes)
        if progress is not None:
            progress(min(start + CHUNK, len(images)))
    return {"accuracy": int(matrix.trace()) / len(images), "samples": len(images), "confusion": matrix.tolist()}


def scores(model: Classifier, images: np.ndarray, classes: int) -> np.ndarray:
    """What `model` gives for raw images uint8 [N, C, H, W], normalised as it wants them: float32 [N, classes].

    Raises:
        FsgError: shapes that do not fit the model, or each other, or a model without mean and std.
    """
    found = model(normalize(images, *statistics(model, images)))
    if found.shape[1:] != (classes,):
        given = "x".join(map(str, found.shape[1:]))
        raise FsgError(f"{model.path}: gives {given} scores for an image, but there are {classes} classes")
    return found


def statistics(model: Classifier, images: np.ndarray) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std that a model has its images normalised with; FsgError where it says none, or takes other images than
    these of shape [N, C, H, W]."""
    if images.ndim != 4 or images.shape[1:] != model.input_shape:
        raise FsgError(
            f"{model.path}: takes images of {list(model.input_shape)}, but the data set has "
            f"{list(images.shape[1:])}; choose the data set it was trained on"
        )
    if "mean" not in model.metadata or "std" not in model.metadata:
        raise FsgError(f"{model.path}: says no mean and std to normalise with; export it with `fsg export`")
    return model.metadata["mean"], model.metadata["std"]


def match_labels(model: Classifier, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Labels [N] of a data set with `class_names` as indices into the model's own class names.

    Classes are matched by name, never by position: data without names call their classes "0", "1" and so on. Raises
    FsgError for a class that the model does not know.
    """
    names, own = _written(class_names), _written(model.metadata.get("class_names", class_names))
    place = {name: index for index, name in enumerate(own)}
    for name in names:
        if name not in place:
            hint = "; give the data class_names" if all(map(str.isdecimal, names)) else ""
            raise FsgError(f"{model.path}: knows no class {name!r}; its classes are {_short_list(own)}{hint}")
    return np.array([place[name] for name in names])[np.asarray(labels)]


def _written(names: Sequence[str]) -> list[str]:
    """File systems and editors write an accent as part of its letter or behind it."""
    return [unicodedata.normalize("NFC", name) for name in names]


def _short_list(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
