"""What a training loop does to a data set: batches, random crops, mirroring."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.training.data.sets import Images


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
