"""Reads data sets of people's own: npz:PATH.

Every reader here, in `folders` and in `archives` checks all it reads, because the files come from elsewhere, and
returns `Parts`. A file that is missing, truncated or inconsistent ends in one FsgError line that names it. NumPy only.
"""

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError, why
from fsg.training.data.sets import Images, Labels, Parts, empty_like

# Without names, the number of classes is the largest label; a stray 2**40 must not become a list of names.
MAX_CLASSES = 65_536
MAX_CHANNELS = 16  # more are the rows or columns of images whose axes are in another order


def _npz_images(path: Path, key: str, values: NDArray[Any]) -> Images:
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or 0 in values.shape:
        raise FsgError(
            f"{path}: {key} is {values.dtype} {list(values.shape)}; "
            "save non-empty uint8 images [N,C,H,W], [N,H,W,C] or [N,H,W]"
        )
    if values.ndim == 3:
        values = values[:, None]
    elif values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    channels, smaller = values.shape[1], min(values.shape[2:])
    if channels > MAX_CHANNELS or smaller <= 4 < channels:
        raise FsgError(
            f"{path}: {key} of shape {list(values.shape)} would be images of {channels} channels and"
            f" {values.shape[3]}x{values.shape[2]} pixels; save [N,C,H,W] of at most {MAX_CHANNELS} channels, or"
            " [N,H,W,C] of 1 or 3"
        )
    return np.ascontiguousarray(values)


def _npz_labels(path: Path, key: str, values: NDArray[Any], images: int) -> Labels:
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise FsgError(f"{path}: {key} is {values.dtype} {list(values.shape)}; save integer labels [N]")
    if len(values) != images:
        raise FsgError(f"{path}: {key} has {len(values)} labels for {images} images; save one label per image")
    if values.min() < 0 or values.max() >= MAX_CLASSES:
        worst = values.min() if values.min() < 0 else values.max()
        raise FsgError(f"{path}: {key} holds the label {worst}; number the classes from 0")
    return values.astype(np.int64)


def _npz_names(path: Path, values: NDArray[Any] | None, largest: int) -> tuple[str, ...]:
    if values is None:
        return tuple(str(label) for label in range(largest + 1))
    if values.dtype.kind != "U" or values.ndim != 1:
        raise FsgError(f"{path}: class_names is {values.dtype} {list(values.shape)}; save a 1-D array of strings")
    if largest >= len(values):
        raise FsgError(
            f"{path}: holds the label {largest} but {len(values)} class_names, numbered from 0; "
            "name every class or leave class_names out"
        )
    if len(set(values)) < len(values):
        twice = next(name for name, count in Counter(map(str, values)).items() if count > 1)
        raise FsgError(f"{path}: class_names has {twice!r} twice; give every class a name of its own")
    return tuple(str(name) for name in values)


def read_npz(path: Path, *, test_only: bool = False) -> Parts:
    """Read an .npz of images x_train, x_test (uint8) and labels y_train, y_test (any integers).

    Images are [N,C,H,W], [N,H,W,C] with C of 1 or 3 (where the second size is neither), or [N,H,W]. An
    optional array class_names holds strings; without it, classes are called by their numbers, up to the
    largest label read. With test_only, x_train and y_train may be absent and are not read. Nothing is
    unpickled.
    Errors: FsgError naming the file and the key.
    """
    keys = ("x_test", "y_test") if test_only else ("x_train", "y_train", "x_test", "y_test")
    try:
        # np.load takes other kinds of file for a pickle, and then complains about pickles.
        if not zipfile.is_zipfile(path):
            path.open("rb").close()
            raise FsgError(f"{path}: not an .npz file, or only part of one; write it with numpy.savez")
        with np.load(path, allow_pickle=False) as archive:
            if missing := [key for key in keys if key not in archive]:
                hint = "" if test_only else " (x_test and y_test are enough where only the test part is used)"
                raise FsgError(f"{path}: lacks {', '.join(missing)}; add what is missing{hint}")
            # asarray: what is no array in the archive comes as bytes, which the checks below then refuse.
            arrays = {key: np.asarray(archive[key]) for key in (*keys, "class_names") if key in archive}
    except FsgError:
        raise
    except OSError as error:
        raise FsgError(f"{path}: cannot be read ({why(error)}); check the path") from error
    except MemoryError as error:
        raise FsgError(f"{path}: does not fit into memory ({why(error)}); save fewer or smaller images") from error
    except Exception as error:  # a damaged zip raises nearly anything
        raise FsgError(f"{path}: cannot be read ({why(error)}); write it anew with numpy.savez") from error

    x_test = _npz_images(path, "x_test", arrays["x_test"])
    y_test = _npz_labels(path, "y_test", arrays["y_test"], len(x_test))
    x_train, y_train = empty_like(x_test)
    if not test_only:
        x_train = _npz_images(path, "x_train", arrays["x_train"])
        y_train = _npz_labels(path, "y_train", arrays["y_train"], len(x_train))
        if x_train.shape[1:] != x_test.shape[1:]:
            sizes = f"{list(x_train.shape[1:])} in x_train, but {list(x_test.shape[1:])} in x_test"
            raise FsgError(f"{path}: images [C,H,W] are {sizes}; save both in one size")
        if unknown := set(y_test.tolist()) - set(y_train.tolist()):
            raise FsgError(
                f"{path}: y_test holds the label {min(unknown)}, which y_train does not; add training images of that"
                " class, or leave its test images out"
            )
    largest = int(max(y_test.max(), y_train.max(initial=0)))
    return Parts(x_train, y_train, x_test, y_test, _npz_names(path, arrays.get("class_names"), largest))
