"""Reads data sets of people's own: folder:PATH and npz:PATH.

Every reader here and in `archives` checks all it reads, because the files come from elsewhere, and returns `Parts`. A
file that is missing, truncated or inconsistent ends in one FsgError line that names it. NumPy only; Pillow is imported
when a folder of images is read.
"""

import threading
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError, require_utf8, why
from fsg.runtime.pictures import picture_files, pillow, read_picture
from fsg.training.data.sets import Images, Labels, Parts, Progress, empty_like

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


ALSO_CALLED = {
    "train": ("training", "trn", "training_set", "train_set"),
    "test": ("val", "valid", "validation", "dev", "testing", "eval", "test_set", "validation_set"),
}


def _check_parts(path: Path, parts: tuple[str, ...]) -> None:
    """Raises FsgError where one is missing, saying what stands there instead if that is to be seen."""
    there = {entry.name.lower(): entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."}
    for part in parts:
        if (path / part).is_dir():
            continue
        other = next((there[name] for name in (part, *ALSO_CALLED[part]) if name in there), None)
        if other:
            remedy = f"rename {path / other} to {part}"
        elif there and not any(name in there for names in ALSO_CALLED.items() for name in (names[0], *names[1])):
            remedy = f"move images of every class into {path}/train/CLASS and {path}/test/CLASS"
        else:
            remedy = f"put images of every class into {path / part}/CLASS"
        raise FsgError(f"{path / part}: no such folder; {remedy}")


def _subfolders(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the class folders in `folder`; hidden ones are no classes."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise FsgError(
            f"{folder}: cannot be read ({why(error)}); expected one folder of images per class in it"
        ) from error
    require_utf8(*names)
    if not names:
        raise FsgError(f"{folder}: has no folders; put the images into one folder per class")
    return tuple(names)


def _loose_files(folder: Path) -> list[Path]:
    """The files beside the class folders."""
    return sorted(entry for entry in folder.iterdir() if not entry.is_dir() and entry.name[0] != ".")


class _OtherSizeError(FsgError):
    """An image is not as large as the first."""


class _Reading:
    """What came up while the images of a folder were read, for the person who has to know; threads may share it."""

    def __init__(self) -> None:
        self.skipped: list[str] = []  # files that are no images, and why not
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._sizes: dict[tuple[int, int], list[Path]] = {}
        self._errors: list[str] = []

    def saw(self, what: str) -> None:
        """Counts an image of which that is true."""
        with self._lock:
            self._seen[what] += 1

    def of_other_size(self, path: Path, size: tuple[int, int]) -> None:
        """Notes an image that is not as large as the first."""
        with self._lock:
            self._sizes.setdefault(size, []).append(path)

    def failed(self, error: FsgError) -> None:
        """Notes an image that cannot be used."""
        with self._lock:
            self._errors.append(str(error))

    def check(self, first: Path, size: tuple[int, int]) -> None:
        """Raises FsgError where there were images that cannot be used, or of other sizes than the first one's."""
        if self._errors:
            more = f" ({len(self._errors) - 1} more files cannot be used either)" if len(self._errors) > 1 else ""
            raise FsgError(min(self._errors) + more)
        if not self._sizes:
            return
        groups = sorted(self._sizes.items(), key=lambda group: -len(group[1]))
        found = ", ".join(f"{len(paths)} of {w}x{h} such as {min(paths)}" for (w, h), paths in groups[:3])
        more = f" and {len(groups) - 3} more sizes" if len(groups) > 3 else ""
        raise FsgError(f"{first}: is {size[0]}x{size[1]} pixels, but there are {found}{more}; resize all to one size")

    def notes(self) -> tuple[str, ...]:
        found = [f"{count} image{'s' * (count > 1)} {what}" for what, count in sorted(self._seen.items())]
        if self.skipped:
            count = len(self.skipped)
            found.append(f"{count} file{'s' * (count > 1)} passed over, such as {self.skipped[0]}")
        return tuple(found)


def _class_files(folder: Path, reading: _Reading) -> list[Path]:
    """The images in a folder and its subfolders."""
    files, others = picture_files(folder)
    reading.skipped += [f"{path}, which is no image that Pillow can read" for path in others]
    if not files:
        raise FsgError(f"{folder}: has no images; put files in it that Pillow can read, such as .png and .jpg")
    return files


def _decode(path: Path, size: tuple[int, int] | None, reading: _Reading) -> Images:
    """Return one image as people see it, uint8 [3,H,W]; of another (width, height) than `size`, a black pixel."""

    def check(found: tuple[int, int]) -> None:
        if size not in (None, found):
            reading.of_other_size(path, found)
            raise _OtherSizeError

    try:
        return read_picture(path, path, saw=reading.saw, check=check).transpose(2, 0, 1)
    except _OtherSizeError:
        return np.zeros((3, 1, 1), np.uint8)


def _decode_all(
    files: list[Path], first: Path, done: int, total: int, progress: Progress | None, reading: _Reading
) -> Images:
    """Return uint8 [N,3,H,W]; Pillow decodes outside the interpreter lock, so threads help."""
    _, height, width = _decode(first, None, _Reading()).shape
    try:
        images = np.empty((len(files), 3, height, width), np.uint8)
    except MemoryError as error:
        raise FsgError(
            f"{first.parent}: {len(files)} images of {width}x{height} do not fit into memory; resize them"
        ) from error

    def fill(start: int) -> int:
        chunk = files[start : start + 256]
        for offset, path in enumerate(chunk):
            try:
                images[start + offset] = _decode(path, (width, height), reading)
            except FsgError as error:
                reading.failed(error)
        return len(chunk)

    with ThreadPoolExecutor() as pool:
        try:
            for count in pool.map(fill, range(0, len(files), 256)):
                done += count
                if progress:
                    progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def read_folder(path: Path, *, test_only: bool = False, progress: Progress | None = None) -> Parts:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/*, decoded to RGB.

    Classes are the sorted folder names of train (of test, where only that is there and asked for), and both
    parts must have the same ones: an accuracy over fewer classes would be another figure. All images must
    have the size of the first, since any resizing here would also have to run on the device. They are read as
    people see them: turned by their EXIF orientation, transparent ones on white, of animated ones the first
    picture. Subfolders of a class belong to it. Hidden files are passed over, and so is what is no image; notes
    say how many were, and why. progress(done, total) counts files.
    Errors: FsgError naming the folder or file.
    """
    if not path.is_dir():
        raise FsgError(
            f"{path}: no such folder; give one with {path.name}/train/CLASS and {path.name}/test/CLASS in it"
        )
    pillow(f"{path}: reading images")
    _check_parts(path, ("test",) if test_only else ("train", "test"))
    test_names = _subfolders(path / "test")
    names = test_names if test_only and not (path / "train").exists() else _subfolders(path / "train")
    for name in test_names:
        if name not in names:
            raise FsgError(f"{path / 'test' / name}: no such class in {path / 'train'}; rename or remove it")
    for name in names:
        if name not in test_names:
            raise FsgError(f"{path / 'test' / name}: is missing; add test images of this class, or drop it")

    parts = ("test",) if test_only else ("train", "test")
    reading = _Reading()
    for part in parts:
        reading.skipped += [f"{file}, which is in no class" for file in _loose_files(path / part)]
    files = {part: [_class_files(path / part / name, reading) for name in names] for part in parts}
    first = files[parts[0]][0][0]
    total = sum(len(group) for part in parts for group in files[part])
    images: dict[str, Images] = {}
    for part in parts:
        done = sum(len(group) for earlier in images for group in files[earlier])
        flat = [file for group in files[part] for file in group]
        images[part] = _decode_all(flat, first, done, total, progress, reading)
    reading.check(first, images[parts[0]].shape[:1:-1])
    labels = {
        part: np.repeat(np.arange(len(names), dtype=np.int64), [len(group) for group in files[part]]) for part in parts
    }
    x_train, y_train = empty_like(images["test"]) if test_only else (images["train"], labels["train"])
    return Parts(x_train, y_train, images["test"], labels["test"], names, reading.notes())
