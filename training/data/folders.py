"""Reads data sets of people's own pictures: folder:PATH. Pillow is imported when one is read."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fsg import FsgError, require_utf8, why
from fsg.runtime.pictures import picture_files, pillow
from fsg.training.data.cache import cached
from fsg.training.data.decoded import Decoded, Size, first_readable
from fsg.training.data.sets import DataOptions, Images, Labels, Parts, Progress, Split, empty_like

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


def _class_files(folder: Path, skipped: list[str]) -> list[Path]:
    """The images in a folder and its subfolders."""
    files, others = picture_files(folder)
    skipped += [f"{path}, which is no image that Pillow can read" for path in others]
    if not files:
        raise FsgError(f"{folder}: has no images; put files in it that Pillow can read, such as .png and .jpg")
    return files


def _check_size(size: Size, first: Path, decoded: Iterable[Decoded], remedy: str) -> None:
    """Raises FsgError where images have other sizes than the first one's."""
    groups: dict[Size, tuple[int, str]] = {}
    for part in decoded:
        for other, (count, path) in part.sizes.items():
            before = groups.get(other, (0, path))
            groups[other] = (before[0] + count, min(before[1], path))
    groups.pop(size, None)
    if groups:
        ordered = sorted(groups.items(), key=lambda group: -group[1][0])
        found = ", ".join(f"{count} of {w}x{h} such as {path}" for (w, h), (count, path) in ordered[:3])
        more = f" and {len(ordered) - 3} more sizes" if len(ordered) > 3 else ""
        raise FsgError(f"{first}: is {size[0]}x{size[1]} pixels, but there are {found}{more}; {remedy}")


def _notes(decoded: Sequence[Decoded], skipped: Sequence[str], square: int) -> tuple[str, ...]:
    """What people should know of how images were read."""
    found = []
    sizes = sorted({size for part in decoded for size in part.sizes}, key=lambda size: (size[0] * size[1], size))
    if square and sizes != [(square, square)]:
        (w, h), (most_w, most_h) = sizes[0], sizes[-1]
        between = f"{w}x{h}" + (f" to {most_w}x{most_h}" if len(sizes) > 1 else "")
        middle = "" if all(w == h for w, h in sizes) else "the middle of "
        found.append(f"{middle}images of {between} pixels resized to {square}x{square}")
    seen = sum((part.seen for part in decoded), Counter())
    found += [f"{count} image{'s' * (count > 1)} {what}" for what, count in sorted(seen.items())]
    failed = [error for part in decoded for _, error in sorted(part.failed.items())]
    if failed:
        found.append(f"{len(failed)} file{'s' * (len(failed) > 1)} left out that cannot be used, such as {failed[0]}")
    if skipped:
        found.append(f"{len(skipped)} file{'s' * (len(skipped) > 1)} passed over, such as {skipped[0]}")
    return tuple(found)


def _usable(decoded: Decoded, groups: Sequence[Sequence[Path]]) -> tuple[Images, Labels]:
    """The images that can be used, and their classes. Errors: FsgError for a class without any."""
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])
    if not decoded.failed:
        return decoded.images, labels
    usable = np.ones(len(labels), bool)
    usable[list(decoded.failed)] = False
    start = 0
    for group in groups:
        if not usable[start : start + len(group)].any():
            more = f" ({len(group) - 1} more files of this class cannot be used either)" if len(group) > 1 else ""
            raise FsgError(decoded.failed[start] + more)
        start += len(group)
    return decoded.images[usable], labels[usable]


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
    cache: Path | None = None,
) -> Parts:
    """Read PATH/train/CLASS/* and PATH/test/CLASS/*, decoded to RGB; with `options.split`, PATH/CLASS/*.

    Test images may be in val, valid or validation where there is no test. With a split, a part of the images of
    each class are test images, always the same ones: an image's part follows from its class and name.
    Classes are the sorted folder names of train (of test, where only that is there and asked for), and both
    parts must have the same ones: an accuracy over fewer classes would be another figure. All images must
    have the size of the first, unless `options.image_size` and `fit` say to crop and resize each. They are read as
    people see them: turned by their EXIF orientation, transparent ones on white, of animated ones the first
    picture. Subfolders of a class belong to it. Hidden files are passed over, and so is what is no image or cannot
    be read; notes say how many were, and why. progress(done, total) counts files. Of many, the decoded ones are
    kept in the folder `cache`.
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
    remarks: list[str] = []
    skipped: list[str] = []
    if test and test.name != "test":
        remarks.append(f"{test.name}/ taken for the test images, as there is no test/")
    folders = {"train": train, "test": test} if test else {"train": train}
    files: dict[str, list[list[Path]]] = {}
    bounds: dict[str, int] = {}
    for part, root in folders.items():
        if root and (part in parts or not test):
            skipped += [f"{file}, which is in no class" for file in _loose_files(root)]
            files[part] = [_class_files(root / name, skipped) for name in names]
    if test is None:
        files, bounds = _split(train, names, files["train"], options.split)
    flat = {part: [file for group in files[part] for file in group] for part in parts}
    everything = [file for part in parts for file in flat[part]]
    square = options.image_size if options.fit == "crop" else 0
    first, size = (everything[0], (square, square)) if square else first_readable(everything)
    decoded: dict[str, Decoded] = {}
    for part in parts:
        done = sum(len(flat[earlier]) for earlier in decoded)
        told = partial(_report, progress, done, len(everything))
        decoded[part] = cached(cache, flat[part], size, square=bool(square), progress=told)
    used = {part: _usable(decoded[part], files[part]) for part in parts}
    if not square:
        remedy = "resize all to one size"
        if not test_only:
            how = "--fit crop" if options.image_size else "--image-size N"
            remedy = f"give {how} to take the middle of each in one size, or {remedy}"
        _check_size(size, first, decoded.values(), remedy)
    x_train, y_train = empty_like(used["test"][0]) if test_only else used["train"]
    notes = (*remarks, *_notes(list(decoded.values()), skipped, square))
    return Parts(x_train, y_train, *used["test"], names, notes, bounds)


def _report(progress: Progress | None, before: int, total: int, done: int) -> None:
    if progress:
        progress(before + done, total)
