"""Reads data sets of people's own pictures: folder:PATH. Pillow is imported when one is read."""

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fsg import FsgError, require_utf8, why
from fsg.runtime.pictures import picture_files, pillow, read_picture
from fsg.training.data.sets import DataOptions, Images, Parts, Progress, Split, empty_like

ALSO_CALLED = {
    "train": ("training", "trn", "training_set", "train_set"),
    "test": ("val", "valid", "validation", "dev", "testing", "eval", "test_set", "validation_set"),
}


TEST_FOLDERS = ("test", "val", "valid", "validation")
"""What the folder of the test images may be called: the first that is there is taken."""


def _parts(path: Path, split: Split, test_only: bool) -> tuple[Path, Path | None]:
    """The folders of training and test images; None for the latter where test images are a part of the former.

    Errors: FsgError where one is missing, saying what stands there instead if that is to be seen.
    """
    there = {entry.name.lower(): entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."}
    train = path / "train"
    test = next((path / name for name in TEST_FOLDERS if (path / name).is_dir()), None)
    if test and isinstance(split, float) and split:
        raise FsgError(f"{test}: is there, so nothing is to be split: leave --split away, or rename that folder")
    if test and (test_only or train.is_dir()):
        return train, test
    for part, missing in (("train", not train.is_dir()), ("test", test is None)):
        other = next((there[name] for name in (part, *ALSO_CALLED[part]) if name in there), None) if missing else None
        if other and path / other != test:
            raise FsgError(f"{path / part}: no such folder; rename {path / other} to {part}")
    if test:
        raise FsgError(f"{train}: no such folder; put images of every class into {train}/CLASS")
    whole = train if train.is_dir() else path
    if split and there:
        return whole, None
    if test_only:
        raise FsgError(
            f"{path / 'test'}: no such folder; put images of every class that the network was trained without into"
            f" {path / 'test'}/CLASS"
        )
    if not there:
        raise FsgError(f"{train}: no such folder; put images of every class into {train}/CLASS")
    raise FsgError(
        f"{path / 'test'}: no such folder; give --split 0.2 to test on a fifth of the images of each class in {whole},"
        f" or put some into {path / 'test'}/CLASS" + ("" if train.is_dir() else f" and the others into {train}/CLASS")
    )


def _digest(file: Path, folder: Path) -> int:
    """A number of 48 bits that follows from the class and the name of an image, wherever the data set is."""
    name = f"{folder.name}/{file.relative_to(folder).as_posix()}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=6).digest(), "big")


def _bound(folder: Path, digests: Sequence[int], share: float) -> int:
    """The largest digest of a test image where a share of the images of a class, at least one, are for testing.

    Errors: FsgError for less than two images.
    """
    if len(digests) < 2:
        raise FsgError(f"{folder}: has one image, but --split needs two of every class; add some, or remove the class")
    return sorted(digests)[min(max(round(share * len(digests)), 1), len(digests) - 1) - 1]


def _split(
    root: Path, names: Sequence[str], groups: list[list[Path]], split: Split
) -> tuple[dict[str, list[list[Path]]], dict[str, int]]:
    """Images by part and class, and the largest digest of the test images by class.

    An image's part follows from its name: what has been added since `split` was found moves no other one.
    Errors: FsgError for a class without test images.
    """
    parts: dict[str, list[list[Path]]] = {"train": [], "test": []}
    bounds: dict[str, int] = {}
    for name, files in zip(names, groups, strict=True):
        digests = [_digest(file, root / name) for file in files]
        known = split if isinstance(split, Mapping) else {name: _bound(root / name, digests, split)}
        bounds[name] = known.get(name, -1)
        tests = [digest <= bounds[name] for digest in digests]
        if not any(tests):
            raise FsgError(
                f"{root / name}: has none of the images that --split left out of the training; put images to test on"
                f" into {root / 'test'}/CLASS"
            )
        parts["test"].append([file for file, test in zip(files, tests, strict=True) if test])
        parts["train"].append([file for file, test in zip(files, tests, strict=True) if not test])
    return parts, bounds


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
        self.remarks: list[str] = []
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
        found = self.remarks + [
            f"{count} image{'s' * (count > 1)} {what}" for what, count in sorted(self._seen.items())
        ]
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


def _named(path: Path, train: Path, test: Path | None, test_only: bool) -> tuple[str, ...]:
    """The classes. Errors: FsgError where training and test images have not the same."""
    if test is None:
        return _subfolders(train)
    test_names = _subfolders(test)
    names = test_names if test_only and not train.exists() else _subfolders(train)
    for name in test_names:
        if name not in names:
            raise FsgError(f"{test / name}: no such class in {train}; rename or remove it")
    for name in names:
        if name not in test_names:
            raise FsgError(f"{test / name}: is missing; add test images of this class, or drop it")
    return names


def read_folder(
    path: Path,
    *,
    test_only: bool = False,
    progress: Progress | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008
) -> Parts:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/*, decoded to RGB; with `options.split`, PATH/CLASS/*.

    Test images may be in val, valid or validation where there is no test. With a split, a part of the images of
    each class are test images, always the same ones: an image's part follows from its class and name.
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
    train, test = _parts(path, options.split, test_only)
    names = _named(path, train, test, test_only)
    parts = ("test",) if test_only else ("train", "test")
    reading = _Reading()
    if test and test.name != "test":
        reading.remarks.append(f"{test.name}/ taken for the test images, as there is no test/")
    folders = {"train": train, "test": test} if test else {"train": train}
    files: dict[str, list[list[Path]]] = {}
    bounds: dict[str, int] = {}
    for part, root in folders.items():
        if root and (part in parts or not test):
            reading.skipped += [f"{file}, which is in no class" for file in _loose_files(root)]
            files[part] = [_class_files(root / name, reading) for name in names]
    if test is None:
        files, bounds = _split(train, names, files["train"], options.split)
    first = next(file for group in files[parts[0]] for file in group)
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
    return Parts(x_train, y_train, images["test"], labels["test"], names, reading.notes(), bounds)
