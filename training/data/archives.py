"""Reads the formats of published data sets, IDX (the MNIST family) and CIFAR's pickles; tells damaged zip archives.

torchvision reads them too, but needs torch, without which `fsg eval` of a model file works; and it loads pickles as
they are, which may do anything.
"""

import gzip
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError, why
from fsg.training.data.sets import Images, Labels, Parts, empty_like


def is_damaged(path: Path) -> bool:
    """Whether what a zip archive holds, such as torch writes, is not what was written; False of other files.

    All of it is read: torch itself does not look at the checksums.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except Exception:  # a damaged zip raises nearly anything
        return True


def read_idx(path: Path, ndim: int) -> Images:
    """Read one IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Format: bytes 0, 0, 8 (unsigned byte), ndim; ndim big-endian uint32 sizes; the values, last index fastest.
    Errors: FsgError for an unreadable file, another type or rank, or a length that is not the header's.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * ndim)
            if len(head) < 4 + 4 * ndim or head[:4] != bytes((0, 0, 8, ndim)):
                raise FsgError(f"{path}: not an IDX file of unsigned bytes with {ndim} dimensions; fetch it anew")
            sizes = struct.unpack(f">{ndim}I", head[4:])
            # Exactly what is there, never what the header claims: sizes can name far more than any memory.
            body = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise FsgError(f"{path}: cannot be read ({why(error)}); fetch it anew") from error
    count = 1
    for size in sizes:
        count *= size
    if len(body) != count:
        raise FsgError(f"{path}: holds {len(body)} values where its header says {count}; fetch it anew")
    return np.frombuffer(body, np.uint8).reshape(sizes).copy()


class _PickledDtype:
    """Stands for numpy.dtype while unpickling; the byte order that follows means nothing to single bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None: ...


class _PickledArray:
    """Stands for numpy.ndarray while unpickling; keeps the array of bytes the pickle describes."""

    values: Images

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if dtype.code != "u1":
            raise pickle.UnpicklingError(f"array of {dtype.code!r} instead of unsigned bytes")
        # Python 2 strings arrive as text in the latin-1 encoding that the unpickler was told.
        content = raw.encode("latin-1") if isinstance(raw, str) else raw
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _CifarUnpickler(pickle.Unpickler):
    """Knows three names, and gives none of them to NumPy.

    A pickle may call whatever it can name. NumPy's own reconstructors trust their arguments (a forged dtype
    makes them read arbitrary memory), so plain stand-ins take their places.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda *_: _PickledArray()
            case "numpy", "ndarray":
                return _PickledArray
            case "numpy", "dtype":
                return _PickledDtype
        raise pickle.UnpicklingError(f"names {module}.{name}, which no CIFAR file needs")


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _CifarUnpickler(file, encoding="latin-1").load()
    except Exception as error:  # unpickling a damaged file raises nearly anything
        raise FsgError(f"{path}: not a CIFAR file ({why(error)}); delete its folder and fetch it anew") from error
    if not isinstance(content, dict):
        raise FsgError(f"{path}: not a CIFAR file; delete its folder and fetch it anew")
    return content


def _cifar_batch(path: Path, label_key: str, num_classes: int) -> tuple[Images, Labels]:
    content = _unpickle(path)
    images = getattr(content.get("data"), "values", None)
    labels = content.get(label_key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != 3072:
        raise FsgError(f"{path}: has no images of 3072 bytes; delete its folder and fetch it anew")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise FsgError(f"{path}: has no list of {label_key}; delete its folder and fetch it anew")
    if len(labels) != len(images) or not all(0 <= label < num_classes for label in labels):
        raise FsgError(
            f"{path}: its {len(labels)} labels do not fit {len(images)} images of {num_classes} classes; "
            "delete its folder and fetch it anew"
        )
    return images.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def read_cifar(
    train: Sequence[Path], test: Path, meta: Path, *, label_key: str, names_key: str, num_classes: int
) -> Parts:
    """Read CIFAR-10 or CIFAR-100 in the "python version" of https://www.cs.toronto.edu/~kriz/cifar.html.

    Each file is a Python 2 pickle of {"data": uint8 [N,3072], label_key: list of N ints}, a row being the
    red, green and blue plane; `meta` holds the class names under names_key. With no `train` files that part
    is empty. The pickles can run no code (see _CifarUnpickler).
    Errors: FsgError naming the file.
    """
    names = _unpickle(meta).get(names_key)
    if not isinstance(names, list) or len(names) != num_classes or not all(type(n) is str for n in names):
        raise FsgError(f"{meta}: has no {num_classes} {names_key}; delete its folder and fetch it anew")
    x_test, y_test = _cifar_batch(test, label_key, num_classes)
    x_train, y_train = empty_like(x_test)
    if train:
        batches = [_cifar_batch(path, label_key, num_classes) for path in train]
        x_train = np.concatenate([images for images, _ in batches])
        y_train = np.concatenate([labels for _, labels in batches])
    return Parts(x_train, y_train, x_test.copy(), y_test, tuple(names))
