"""Decodes the pictures of a folder, several at a time."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fsg import FsgError
from fsg.runtime.pictures import Pixels, read_picture, to_square
from fsg.training.data.sets import Images

CHUNK = 32  # pictures between two calls of `progress`
Size = tuple[int, int]  # (width, height)


@dataclass
class Decoded:
    """Pictures, uint8 [N, 3, H, W], and what came up while they were read.

    failed: why pictures cannot be used, by their index; sizes: how many pictures have each size, and the first of them;
    seen: how many needed what. A picture that failed, or is not of the size of the array, is black in it.
    """

    images: Images
    failed: dict[int, str] = field(default_factory=dict)
    sizes: dict[Size, tuple[int, str]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)


class _OtherSizeError(FsgError):
    """A picture has another size than it must have; raised before it is decoded."""

    def __init__(self, size: Size) -> None:
        super().__init__(f"{size[0]}x{size[1]}")
        self.size = size


def first_readable(files: Sequence[Path]) -> tuple[Path, Size]:
    """The first picture that can be read, and its size. Errors: FsgError where there is none, naming the first."""
    errors: list[str] = []
    for path in files:
        try:
            height, width, _ = read_picture(path, path).shape
            return path, (width, height)
        except FsgError as error:
            errors.append(str(error))
    more = f" ({len(errors) - 1} more files cannot be used either)" if len(errors) > 1 else ""
    raise FsgError(errors[0] + more)


def decode(
    files: Sequence[Path], size: Size, *, square: bool, progress: Callable[[int], object] = lambda done: None
) -> Decoded:
    """Reads pictures as people see them, in threads: Pillow decodes outside the interpreter lock.

    With `square`, the middle of each is resized to `size`; else those of another size are black. Errors: FsgError
    where all of them do not fit into memory.
    """
    width, height = size
    try:
        found = Decoded(np.zeros((len(files), 3, height, width), np.uint8))
    except MemoryError as error:
        remedy = "give a smaller --image-size" if square else "give --image-size, or resize them"
        raise FsgError(
            f"{files[0].parent}: {len(files)} images of {width}x{height} do not fit into memory; {remedy}"
        ) from error
    lock = threading.Lock()

    def check(own: Size) -> None:
        if not square and own != size:
            raise _OtherSizeError(own)

    def read(index: int) -> None:
        seen: list[str] = []
        try:
            pixels: Pixels = read_picture(files[index], files[index], saw=seen.append, check=check)
            own = (pixels.shape[1], pixels.shape[0])
            image = pixels.transpose(2, 0, 1)
            found.images[index] = to_square(image, width, f"{files[index]}: resizing") if square else image
        except _OtherSizeError as error:
            own = error.size
        except FsgError as error:
            with lock:
                found.failed[index] = str(error)
            return
        with lock:
            found.seen.update(seen)
            count, first = found.sizes.get(own, (0, str(files[index])))
            found.sizes[own] = (count + 1, min(first, str(files[index])))

    def read_chunk(start: int) -> int:
        indices = range(start, min(start + CHUNK, len(files)))
        for index in indices:
            read(index)
        return len(indices)

    done = 0
    with ThreadPoolExecutor() as pool:
        try:
            for count in pool.map(read_chunk, range(0, len(files), CHUNK)):
                done += count
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found
