"""A classification data set in memory, and what a model must know of it."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError, why
from fsg.runtime.pictures import resize, to_square
from fsg.training.config import Config

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Progress = Callable[[int, int], object]
Split = float | Mapping[str, int]
"""The share of a folder's images that are for testing; or, of a trained model, the largest digest of its test images
by class, which keeps images that were trained on out of a test whatever has been added to the folder since."""


def shown(show: Callable[[str], object], spec: str) -> Progress:
    """What tells people how far the reading of a data set is."""
    return lambda done, total: show(f"reading {spec}: {done:,} of {total:,} images")


@dataclass(frozen=True)
class DataOptions:
    """How a data set is to be read: `split` for folders without test images, the others as `resized` takes them."""

    split: Split = 0.0
    image_size: int = 0
    fit: str = "crop"


def options_of(config: Config) -> DataOptions:
    """How a run wants its data set read."""
    return DataOptions(config.split, config.image_size, config.fit)


def options_of_model(metadata: Mapping[str, Any]) -> DataOptions:
    """How a trained model, whose metadata these are, wants a data set read: it is tested on no image it has learnt.

    Errors: FsgError for metadata that fsg did not write.
    """
    split, size = metadata.get("split", {}), metadata.get("image_size", 0)
    for name, fits in (
        ("split", isinstance(split, dict) and all(type(bound) is int for bound in split.values())),
        ("image_size", type(size) is int and 0 <= size <= 4096),
    ):
        if not fits:
            raise FsgError(f"the model's metadata are damaged: {name} is {metadata[name]!r:.60}; export it anew")
    return DataOptions(split, size, metadata.get("fit", "stretch"))


class Parts(NamedTuple):
    """Images uint8 [N,C,H,W] and labels int64 [N], each label an index into class_names.

    A training part that was not asked for has N = 0.
    """

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what people should know of how it was read
    split: Mapping[str, int] = MappingProxyType({})  # of a folder that was split: see `Split`


def need(module: str, who: str) -> ModuleType:
    """Import an optional module, or raise an FsgError: `who` ("X needs Y"), why not, and what installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FsgError(f"{who} ({why(error)}): pip install 'fsg[train]'") from error


def empty_like(images: Images) -> tuple[Images, Labels]:
    """Return a part without images, of the same [C,H,W] as `images`."""
    return np.empty((0, *images.shape[1:]), np.uint8), np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    x_train, x_test: images, uint8 [N,C,H,W]; y_train, y_test: class indices, int64 [N]. Loaded with
    test_only, the training part has N = 0.
    mean, std: per channel, of images / 255; what the network's input is normalised with. Empty where
    test_only left out the images they would be computed from: use those of the checkpoint or model file.
    flip: whether a mirrored image still shows its class. pad: pixels of zero padding for random crops.
    notes: what people should know of how it was read.
    split: of a folder without test images of its own, by which images are test images (see `Split`); else empty.
    """

    name: str
    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    pad: int
    notes: tuple[str, ...] = ()
    split: Mapping[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.x_test.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def class_weights(config: Config, data: Dataset) -> tuple[float, ...]:
    """A run's weights of the classes in its loss; none where all images count alike.

    "balanced": n / (k n_c) for n training images of k classes, n_c of class c, so that an image has 1 on average.
    """
    if config.class_weights == "none":
        return ()
    counts = np.bincount(data.y_train, minlength=data.num_classes)
    return tuple((len(data.y_train) / (np.count_nonzero(counts) * np.maximum(counts, 1))).tolist())


def smaller(data: Dataset, train_images: int) -> Dataset:
    """The data set with its first `train_images` training images, as many of each class as its share allows; 0: all.

    Errors: FsgError where there are not so many.
    """
    available = len(data.y_train)
    if not train_images or train_images == available:
        return data
    if train_images > available:
        raise FsgError(f"{data.name} has {available:,} training images: --train-images {train_images} asks for more")
    of_class = [np.flatnonzero(data.y_train == label) for label in range(data.num_classes)]
    # The n-th image of a class comes when a share n of it is due: cut anywhere, all classes are there alike.
    due = np.concatenate([(np.arange(len(indices)) + 0.5) / max(len(indices), 1) for indices in of_class])
    chosen = np.sort(np.concatenate(of_class)[np.argsort(due, kind="stable")[:train_images]])
    return replace(data, x_train=data.x_train[chosen], y_train=data.y_train[chosen])


def resized(data: Dataset, size: int, fit: str = "crop") -> Dataset:
    """The data set with images of `size` x `size` pixels, averaged where they shrink; 0 leaves them as they are.

    Of images that are not square, "crop" takes the middle and "stretch" all.

    Errors: FsgError without Pillow.
    """
    height, width = data.shape[1:]
    if not size or (height, width) == (size, size):
        return data
    parts, who = (data.x_train, data.x_test), "--image-size"
    if fit == "crop":
        x_train, x_test = (to_square(images, size, who) for images in parts)
    else:
        x_train, x_test = (resize(images, size, size, who) for images in parts)
    pad = round(data.pad * size / max(height, width))
    return replace(data, x_train=x_train, x_test=x_test, pad=pad)


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of images / 255 per channel, rounded to 4 decimals.

    images: uint8 [N,C,H,W]. The std is at least 0.001, so that a constant channel can be divided by it.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    # Counting bytes is exact, and in steps because bincount widens its input to 8 bytes a pixel.
    for start in range(0, len(images), 1024):
        for channel in range(channels):
            counts[channel] += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(float(round(m, 4)) for m in mean), tuple(max(float(round(s, 4)), 1e-3) for s in std)


@dataclass(frozen=True)
class DataInfo:
    """What a model must know of its training data: `shape` is (C, H, W), mean and std are of pixels / 255.

    `split` says which images of a folder were not trained on (see `Split`).
    """

    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]
    split: Mapping[str, int] = field(default_factory=dict)
