"""Keeps decoded pictures on disk, so that a folder is decoded once.

A file KEY.npy holds what `decode` makes of a list of pictures: the array, and behind it a line of JSON with the rest
and a checksum. The key follows from the pictures' paths, sizes and times and from how they are read. Nothing here
fails: a file that is damaged is written anew, and where none can be written, pictures are decoded every time.
"""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from fsg import FsgError, make_folder, replacing
from fsg.runtime.pictures import pillow, read_picture
from fsg.training.data.decoded import Decoded, Size, decode

VERSION = 1  # raised when pictures are decoded otherwise
LEAST_BYTES = 4 << 20  # of the pictures' files: fewer are decoded as quickly
UNUSED_SECONDS = 30 * 86_400  # after so long without use a file goes


def cached(
    folder: Path | None,
    files: Sequence[Path],
    size: Size,
    *,
    square: bool,
    progress: Callable[[int], object] = lambda done: None,
) -> Decoded:
    """As `decode`; where it was done before, the array is mapped from a file in `folder`; changes stay in memory."""
    path = _place(folder, files, size, square) if folder else None
    if path and (found := _read(path, len(files), size)) and not any(_readable(files[i]) for i in found.failed):
        progress(len(files))
        return found
    found = decode(files, size, square=square, progress=progress)
    if path and (square or found.sizes.keys() <= {size}):  # others are of no use
        with suppress(OSError, FsgError):
            _write(path, found)
    return found


def _place(folder: Path, files: Sequence[Path], size: Size, square: bool) -> Path | None:
    """Where these pictures are kept; None for few, and where a picture cannot be looked at."""
    key, total = hashlib.sha256(repr((VERSION, pillow("reading images").__version__, size, square)).encode()), 0
    try:
        for file in files:
            stat = file.stat()
            total += stat.st_size
            key.update(os.fsencode(file.absolute()) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
    except OSError:
        return None
    return folder / f"{key.hexdigest()[:32]}.npy" if total >= LEAST_BYTES else None


def _read(path: Path, count: int, size: Size) -> Decoded | None:
    """What is kept; None where nothing is, or it is damaged."""
    try:
        images = np.load(path, mmap_mode="c", allow_pickle=False)
        if images.dtype != np.uint8 or images.shape != (count, 3, size[1], size[0]):
            return None
        with open(path, "rb") as file:
            file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(), "big")
            file.seek(-8 - length, os.SEEK_END)
            about = json.loads(file.read(length))
        if about["checksum"] != zlib.crc32(images.reshape(-1).data):
            return None
        failed = {int(index): str(error) for index, error in about["failed"]}
        sizes = {(int(w), int(h)): (int(number), str(first)) for w, h, number, first in about["sizes"]}
        found = Decoded(images, failed, sizes, Counter({str(what): int(n) for what, n in about["seen"].items()}))
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, OverflowError):
        return None
    with suppress(OSError):
        os.utime(path)
    return found


def _readable(file: Path) -> bool:
    """Whether a picture that could not be read now can be, as after a change of permissions."""
    try:
        read_picture(file, file)
    except FsgError:
        return False
    return True


def _write(path: Path, found: Decoded) -> None:
    make_folder(path.parent)
    for other in path.parent.glob("*.npy"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > UNUSED_SECONDS:
                other.unlink()
    if shutil.disk_usage(path.parent).free < 2 * found.images.nbytes:
        return
    about = {
        "checksum": zlib.crc32(found.images.reshape(-1).data),
        "failed": sorted(found.failed.items()),
        "sizes": [(*size, *entry) for size, entry in sorted(found.sizes.items())],
        "seen": found.seen,
    }
    text = json.dumps(about).encode()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array(file, found.images, allow_pickle=False)
        file.write(text + len(text).to_bytes(8, "big"))
