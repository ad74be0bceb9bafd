"""Data sets by name, as NumPy arrays.

    digits             scikit-learn's 8x8 handwritten digits, enlarged; needs no download
    cifar10, cifar100  downloaded through torchvision
    fashion-mnist      downloaded through torchvision, or the Debian package dataset-fashion-mnist
    folder:PATH        PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, or other image formats; PATH/CLASS/*.png with
                       a split
    npz:PATH           an .npz with x_train, y_train, x_test, y_test

Importing this needs NumPy alone, and so does reading npz:PATH; nothing here needs torch except a download.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsg import FsgError, expanded
from fsg.training.data.files import read_npz
from fsg.training.data.folders import TEST_FOLDERS, read_folder
from fsg.training.data.named import STATISTICS, named_cifar, read_digits, read_fashion_mnist
from fsg.training.data.sets import DataOptions, Dataset, Parts, Progress, channel_statistics, resized

SPECS = ("digits", "cifar10", "cifar100", "fashion-mnist", "folder:PATH", "npz:PATH")


def check_spec(spec: str) -> None:
    """Raise FsgError, naming the nearest and all known data sets, unless `spec` is written like one of them.

    Opens no file: for reporting a mistyped --dataset before anything slow begins.
    """
    _split_spec(spec)


def _split_spec(spec: str) -> tuple[str, Path | None]:
    """Return the name, and the path of folder:PATH and npz:PATH."""
    name, colon, rest = spec.partition(":")
    if name in ("folder", "npz"):
        if not rest:
            raise FsgError(f"data set {spec!r} lacks its path: write {name}:PATH")
        return name, expanded(rest)
    if not colon and name in SPECS:
        return name, None
    if name in SPECS:
        raise FsgError(f"data set {spec!r}: {name} takes no path; write {name}, and give its folder as data_dir")
    # A likely slip is a bare path.
    if spec.endswith(".npz") and not colon:
        hint = f"did you mean npz:{spec}? "
    elif "/" in spec and not colon:
        hint = f"did you mean folder:{spec}? "
    else:
        known = {known.partition(":")[0]: known for known in SPECS}
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f"did you mean {known[near[0]]}? " if near else ""
    raise FsgError(f"unknown data set {spec!r}: {hint}There are {', '.join(SPECS)}")


def load_dataset(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
    test_only: bool = False,
    progress: Progress | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008
) -> Dataset:
    """Load a data set by its name or path (see the module's docstring), as a run or model wants it: `options`.

    data_dir: the existing folder where cifar10, cifar100 and fashion-mnist are, or go; it may be the folder of the
    files itself. By default $FSG_DATA, else ~/.cache/fsg/data, made if need be. Of npz:PATH and folder:PATH, where they
    have been moved: what is there by PATH's last name, or data_dir itself, is taken instead.
    download: whether to fetch those three where they are missing.
    test_only: leave the training part out; npz:PATH and folder:PATH then need not have one.
    progress(done, total): called as the images of folder:PATH are decoded; of many, the result is kept in a cache.

    flip is True for CIFAR and Fashion-MNIST: a mirrored shoe is still a shoe. A mirrored 2 is no digit, and of
    folder:PATH and npz:PATH nothing is known: a mirrored arrow, letter or traffic sign may be another one.

    Errors: FsgError, naming the data set, file or folder and the remedy.
    """
    data = _load(spec, data_dir, download, test_only, progress, options)
    return resized(data, options.image_size, options.fit)


def _load(
    spec: str,
    data_dir: str | Path | None,
    download: bool,
    test_only: bool,
    progress: Progress | None,
    options: DataOptions,
) -> Dataset:
    name, path = _split_spec(spec)
    folder = expanded(data_dir) if data_dir else None
    if folder and not folder.is_dir() and not (name == "npz" and folder.is_file()):
        raise FsgError(f"data folder {data_dir}: no such folder; make it, or leave it away to download into a cache")
    if path:
        path = _found(path, name, folder, options)
    if name == "npz" and path:
        return _with_statistics(spec, read_npz(path, test_only=test_only), flip=False)
    if name == "folder" and path:
        parts = read_folder(path, test_only=test_only, progress=progress, options=options, cache=decoded_cache())
        return _with_statistics(spec, parts, flip=False)
    if name == "digits":
        return _with_statistics(spec, read_digits(test_only), flip=False)
    root = folder or _cache()
    if name == "fashion-mnist":
        parts = read_fashion_mnist(root, download, test_only)
    else:
        parts = named_cifar(name, root, download, test_only)
    mean, std = STATISTICS[name]
    return Dataset(name, *parts[:5], mean=mean, std=std, flip=True, pad=4)


def _cache() -> Path:
    """Where data sets go that are fetched: $FSG_DATA, else ~/.cache/fsg/data."""
    try:
        return Path(os.environ.get("FSG_DATA") or "~/.cache/fsg/data").expanduser()
    except RuntimeError as error:
        raise FsgError("there is no home folder to keep data sets in: give one with --data-dir or FSG_DATA") from error


def decoded_cache() -> Path | None:
    """Where decoded pictures are kept: $FSG_DATA/decoded, else ~/.cache/fsg/decoded; None without a home folder."""
    try:
        given = os.environ.get("FSG_DATA")
        return Path(given).expanduser() / "decoded" if given else Path("~/.cache/fsg/decoded").expanduser()
    except RuntimeError:
        return None


def _found(path: Path, kind: str, moved_to: Path | None, options: DataOptions) -> Path:
    """The file of npz:PATH or folder of folder:PATH: in `moved_to` by its name, that itself, or where it was."""
    places = [path]
    if moved_to:
        parts = (*TEST_FOLDERS, *(options.split if isinstance(options.split, Mapping) else ()))
        places = [
            moved_to / path.name,
            *([moved_to] if kind == "npz" or any((moved_to / part).is_dir() for part in parts) else []),
            path,
        ]
    found = next((place for place in places if (place.is_file() if kind == "npz" else place.is_dir())), None)
    if found is None and not (path.exists() or path.is_symlink()):
        problem = "cannot be read (No such file or directory)" if kind == "npz" else "no such folder"
        where = f", and neither is it in {moved_to}" if moved_to else ""
        raise FsgError(
            f"{path}: {problem}{where}; check the path, or say with --data-dir in which folder {path.name} is now"
        )
    return found or path


def _with_statistics(name: str, parts: Parts, *, flip: bool) -> Dataset:
    """Add mean and std of the training images, and a crop padding of an eighth of the image (4 for 32x32)."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if len(parts.x_train):
        mean, std = channel_statistics(parts.x_train)
    pad = max(parts.x_test.shape[2:]) // 8
    return Dataset(name, *parts[:5], mean=mean, std=std, flip=flip, pad=pad, notes=parts.notes, split=dict(parts.split))


class Shelf:
    """Data sets that several ask for: `load_dataset` of each once, or twice where the test images came first."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str, str], Dataset] = {}

    def __call__(
        self,
        spec: str,
        *,
        data_dir: str | Path | None = None,
        test_only: bool = False,
        progress: Progress | None = None,
        options: DataOptions = DataOptions(),  # noqa: B008
    ) -> Dataset:
        """As `load_dataset`; with `test_only` the training part may be there all the same."""
        key = (spec, str(data_dir or ""), repr(options))
        found = self._loaded.get(key)
        if found is None or not (test_only or len(found.x_train)):
            how: dict[str, Any] = {"test_only": test_only, "progress": progress, "options": options}
            found = load_dataset(spec, data_dir=data_dir, **how)
            self._loaded[key] = found
        return found
