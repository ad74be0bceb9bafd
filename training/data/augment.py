"""What a training loop does to a data set: batches, random crops, mirroring."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.training.data.sets import Dataset, Images


def batches(n: int, batch_size: int, rng: np.random.Generator | None, drop_last: bool) -> Iterator[NDArray[np.int64]]:
    """Return an iterator over index arrays that together hold 0..n-1 once, shuffled where `rng` is given.

    Each has batch_size indices; a shorter rest comes last, or with drop_last not at all.
    Errors: FsgError, at once, for a batch size that would make no batch.
    """
    if batch_size < 1 or (drop_last and batch_size > n):
        raise FsgError(f"batch size {batch_size} does not suit {n} images: choose 1 to {n}")
    order = np.arange(n) if rng is None else rng.permutation(n)
    end = n - n % batch_size if drop_last else n
    return (order[start : start + batch_size] for start in range(0, end, batch_size))


@dataclass(frozen=True, eq=False)
class Changes:
    """What augmentation does to each of B images: the place of its crop in the padded image, and mirroring.

    top, left: int64 [B], 0 to 2 pad; mirrored: bool [B].
    """

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def part(self, part: slice) -> "Changes":
        """Those of some of the images."""
        return Changes(self.top[part], self.left[part], self.mirrored[part])


def draw_changes(count: int, rng: np.random.Generator, *, pad: int, flip: bool) -> Changes:
    """Draw random crops, and with `flip` mirror half of the images."""
    top, left = rng.integers(0, 2 * pad + 1, (2, count)) if pad else np.zeros((2, count), np.int64)
    return Changes(top, left, rng.random(count) < 0.5 if flip else np.zeros(count, np.bool_))


def apply_changes(images: Images, changes: Changes, pad: int) -> Images:
    """Return shifted and mirrored copies of images, uint8 [B,C,H,W] and contiguous.

    Each image is padded by `pad` pixels on every side and cropped to its size. The padding is black, as in
    torchvision's RandomCrop of pictures: 0 before normalisation, which is not 0 after it. All channels of an image
    move together.
    """
    count, channels, height, width = images.shape
    if pad:
        padded = np.zeros((count, channels, height + 2 * pad, width + 2 * pad), np.uint8)
        padded[:, :, pad : pad + height, pad : pad + width] = images
        crops = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        result = np.ascontiguousarray(crops[np.arange(count), :, changes.top, changes.left])
    else:
        result = images.copy()
    result[changes.mirrored] = result[changes.mirrored, :, :, ::-1]
    return result


def augment(images: Images, rng: np.random.Generator, *, pad: int, flip: bool) -> Images:
    """Return randomly shifted, and with `flip` half of them mirrored, copies of `images`; see `apply_changes`."""
    return apply_changes(images, draw_changes(len(images), rng, pad=pad, flip=flip), pad)


def with_augmentation(data: Dataset, *, augment: bool, crop: int, flip: str) -> Dataset:
    """The data set with the changes that a run's settings ask for: `pad` and `flip` are 0 and False without any.

    A `crop` of -1 and a `flip` of "auto" leave what suits the data. Errors: FsgError for a crop of more than half of
    an image.
    """
    height, width = data.shape[1:]
    if augment and crop > min(height, width) // 2:
        raise FsgError(
            f"--crop {crop} would leave less than half of images of {width}x{height} pixels: give at most"
            f" {min(height, width) // 2}"
        )
    pad = data.pad if crop == -1 else crop
    mirrored = data.flip if flip == "auto" else flip == "yes"
    return replace(data, pad=pad if augment else 0, flip=mirrored and augment)


def described(data: Dataset) -> str:
    """What `with_augmentation` arranged, in words."""
    shifts = [f"shifted by up to {data.pad} pixels"] if data.pad else []
    changes = [*shifts, *(["mirrored at random"] if data.flip else [])]
    return f"training images are {' and '.join(changes)}" if changes else "training images are taken as they are"


def mirror_images(data: Dataset) -> list[tuple[str, str]]:
    """Pairs of classes that look like mirror images of each other: mirroring would teach each as the other.

    Judged by the mean image of each class: mirrored, it is nearest to that of the other class, and the other way round,
    and less than half as far from it as the two are apart.
    """
    present = [label for label in range(data.num_classes) if (data.y_train == label).any()]
    means = {label: data.x_train[data.y_train == label].mean(0, dtype=np.float64) for label in present}

    def distance(label: int, other: int, *, mirrored: bool) -> float:
        image = means[label][..., ::-1] if mirrored else means[label]
        return float(np.abs(image - means[other]).mean())

    nearest = {a: min((distance(a, b, mirrored=True), b) for b in present)[1] for a in present}
    names = data.class_names
    return [
        (names[a], names[b])
        for a, b in nearest.items()
        if a < b and nearest[b] == a and distance(a, b, mirrored=True) < distance(a, b, mirrored=False) / 2
    ]
