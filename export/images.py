"""The images that exports are compared on, and ranges of integers chosen by."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.export.graph import Floats
from fsg.runtime.model.evaluate import Classifier, normalize, statistics
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import Dataset, options_of_model

MAX_SAMPLES = 1000
RANDOM_IMAGES = 64
CALIBRATION_PIXELS = 1 << 21
CALIBRATION_IMAGES = 64, 512
"""At least and at most so many images are what ranges of integers are chosen by."""


def evenly(count: int, most: int = MAX_SAMPLES) -> NDArray[np.intp]:
    """Which of so many images are taken where `most` will do, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def for_calibration(images: Floats) -> Floats:
    """Those of images [N, C, H, W] that ranges are chosen by: fewer of large ones."""
    return images[evenly(len(images), _most(*images.shape[2:]))]


def training_images(model: Classifier, spec: str, data_dir: str | None) -> Floats:
    """As many of a data set's training images as ranges are chosen by, normalised as the model takes them."""
    data = dataset_for(model, spec, data_dir, test_only=False)
    chosen = evenly(len(data.x_train), _most(*data.shape[1:]))
    return normalize(data.x_train[chosen], *statistics(model, data.x_train[chosen]))


def dataset_for(model: Classifier, spec: str, data_dir: str | None, *, test_only: bool = True) -> Dataset:
    """A data set as the model wants it: its images in the model's size, and no test image that it was trained on."""
    return load_dataset(spec, data_dir=data_dir, test_only=test_only, options=options_of_model(model.metadata))


def _most(height: int, width: int) -> int:
    return int(np.clip(CALIBRATION_PIXELS // (height * width), *CALIBRATION_IMAGES))


def random_images(shape: Sequence[int], metadata: dict[str, Any] | None = None) -> Floats:
    """64 images of normally distributed numbers, always the same for a shape (C, H, W).

    With metadata that have a mean and std they are random pixels, normalised by these.
    """
    rng, sizes = np.random.default_rng(0), (RANDOM_IMAGES, *shape)
    if metadata and {"mean", "std"} <= metadata.keys():
        if np.any(np.asarray(metadata["std"]) <= 0):
            raise FsgError(f"std is {metadata['std']}; its numbers must be above 0")
        return normalize(rng.integers(0, 256, sizes, np.uint8), metadata["mean"], metadata["std"])
    return rng.standard_normal(sizes, np.float32)
