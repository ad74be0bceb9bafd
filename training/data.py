"""Data sets by name, as NumPy arrays, and the two things a training loop does to them: batches, augmentation.

    digits             scikit-learn's 8x8 handwritten digits, enlarged; needs no download
    cifar10, cifar100  downloaded through torchvision
    fashion-mnist      downloaded through torchvision, or the Debian package dataset-fashion-mnist
    folder:PATH        PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, or other image formats
    npz:PATH           an .npz with x_train, y_train, x_test, y_test

Importing this needs NumPy alone, and so does reading npz:PATH; nothing here needs torch except a download.
"""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.training.data_files import (
    Images,
    Labels,
    Parts,
    Progress,
    empty_like,
    need,
    read_cifar,
    read_folder,
    read_idx,
    read_npz,
    why,
)

SPECS = ("digits", "cifar10", "cifar100", "fashion-mnist", "folder:PATH", "npz:PATH")

FASHION_NAMES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    x_train, x_test: images, uint8 [N,C,H,W]; y_train, y_test: class indices, int64 [N]. Loaded with
    test_only, the training part has N = 0.
    mean, std: per channel, of images / 255; what the network's input is normalised with. Empty where
    test_only left out the images they would be computed from: use those of the checkpoint or model file.
    flip: whether a mirrored image still shows its class. pad: pixels of zero padding for random crops.
    """

    name: str
    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    pad: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.x_test.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


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
        return name, Path(rest).expanduser()
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
) -> Dataset:
    """Load a data set by its name or path (see the module's docstring).

    data_dir: the existing folder where cifar10, cifar100 and fashion-mnist are, or go; it may be the folder of the
    files itself. By default $FSG_DATA, else ~/.cache/fsg/data, made if need be.
    download: whether to fetch those three where they are missing.
    test_only: leave the training part out; npz:PATH and folder:PATH then need not have one.
    progress(done, total): called as the images of folder:PATH are decoded.

    flip is True but for digits. A mirrored shoe is still a shoe, a mirrored 2 is no digit; of folder:PATH and
    npz:PATH nothing is known, and most photographs may be mirrored: turn it off for text or traffic signs.

    Errors: FsgError, naming the data set, file or folder and the remedy.
    """
    name, path = _split_spec(spec)
    if data_dir and not Path(data_dir).expanduser().is_dir():
        raise FsgError(f"data folder {data_dir}: no such folder; make it, or leave it away to download into a cache")
    root = Path(data_dir or os.environ.get("FSG_DATA") or "~/.cache/fsg/data").expanduser()
    if name == "npz" and path:
        return _with_statistics(spec, read_npz(path, test_only=test_only), flip=True)
    if name == "folder" and path:
        return _with_statistics(spec, read_folder(path, test_only=test_only, progress=progress), flip=True)
    if name == "digits":
        return _with_statistics(spec, _digits(test_only), flip=False)
    if name == "fashion-mnist":
        parts = _fashion_mnist(root, download, test_only)
        # Of the training images, counted without the border that _fashion_mnist adds, as usually published.
        return Dataset(name, *parts, mean=(0.2860,) * 3, std=(0.3530,) * 3, flip=True, pad=4)
    parts = _cifar(name, root, download, test_only)
    if name == "cifar10":
        # The usual figures; the std is the mean over the images of each one's own std.
        mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    else:
        mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return Dataset(name, *parts, mean=mean, std=std, flip=True, pad=4)


def _with_statistics(name: str, parts: Parts, *, flip: bool) -> Dataset:
    """Add mean and std of the training images, and a crop padding of an eighth of the image (4 for 32x32)."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if len(parts.x_train):
        mean, std = channel_statistics(parts.x_train)
    return Dataset(name, *parts, mean=mean, std=std, flip=flip, pad=max(parts.x_test.shape[2:]) // 8)


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of images / 255 per channel, rounded to 4 decimals.

    images: uint8 [N,C,H,W]. The std is at least 0.001, so that a constant channel can be divided by it.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    # Counting bytes is exact, and in steps because bincount widens its input to 8 bytes a pixel.
    for start in range(0, len(images), 1024):
        for channel in range(channels):
            counts[channel] += np.bincount(images[start : start + 1024, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(float(round(m, 4)) for m in mean), tuple(max(float(round(s, 4)), 1e-3) for s in std)


# --- the named sets ---------------------------------------------------------------------------------------


def _digits(test_only: bool) -> Parts:
    """1,437 training and 360 test images of handwritten digits, enlarged from 8x8 to 3x32x32.

    Source: scikit-learn's copy of the UCI set "Optical Recognition of Handwritten Digits". Every fifth image
    in the order of the labels is a test image: stratified, and the same whatever the random generator.
    """
    bunch = need("sklearn.datasets", "data set digits needs scikit-learn").load_digits()
    small, labels = bunch.images.astype(np.int64), bunch.target.astype(np.int64)
    # Bilinear with pixel centres half a pixel in, so the weights are eighths: in whole numbers the result is
    # the same on every machine. The whitest, 16 * 8 * 8, becomes 255.
    weights = np.zeros((32, 8), np.int64)
    for row in range(32):
        eighths = 2 * row - 3
        weights[row, max(eighths // 8, 0)] += 8 - eighths % 8
        weights[row, min(eighths // 8 + 1, 7)] += eighths % 8
    large = ((weights @ small @ weights.T * 255 + 512) // 1024).astype(np.uint8)
    images = np.repeat(large[:, None], 3, axis=1)

    test = np.zeros(len(labels), bool)
    test[np.argsort(labels, kind="stable")[::5]] = True
    x_train, y_train = empty_like(images) if test_only else (images[~test], labels[~test])
    return Parts(x_train, y_train, images[test], labels[test], tuple("0123456789"))


def _cifar(name: str, root: Path, download: bool, test_only: bool) -> Parts:
    """CIFAR-10 or CIFAR-100: 50,000 and 10,000 images 3x32x32."""
    if name == "cifar10":
        folder_name, torchvision_name = "cifar-10-batches-py", "CIFAR10"
        train = tuple(f"data_batch_{number}" for number in range(1, 6))
        test, meta = "test_batch", "batches.meta"
    else:
        folder_name, torchvision_name = "cifar-100-python", "CIFAR100"
        train, test, meta = ("train",), "test", "meta"

    candidates = (root / folder_name, root)
    files = tuple((file,) for file in (*train, test, meta))
    folder = _find(candidates, files)
    if folder is None:
        # A data_dir that is the data folder itself, but incomplete: complete it where it is.
        _download(torchvision_name, root.parent if root.name == folder_name else root, name, download)
        folder = _find((*candidates, root.parent / folder_name), files)
    if folder is None:
        raise FsgError(f"{root}: has no complete {folder_name}; remove what is there and try again")
    return read_cifar(
        [] if test_only else [folder / file for file in train],
        folder / test,
        folder / meta,
        label_key="labels" if name == "cifar10" else "fine_labels",
        names_key="label_names" if name == "cifar10" else "fine_label_names",
        num_classes=10 if name == "cifar10" else 100,
    )


def _fashion_mnist(root: Path, download: bool, test_only: bool) -> Parts:
    """Fashion-MNIST: 60,000 and 10,000 grey images 28x28, with a border of 2 zeros and three equal channels.

    So padded and repeated, they fit the networks for CIFAR's 3x32x32.
    """
    stems = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    if not test_only:
        stems += ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    files = tuple((stem, f"{stem}.gz") for stem in stems)
    candidates = (root, root / "FashionMNIST" / "raw", root / "fashion-mnist")
    folder = _find(candidates, files)
    if folder is None:
        _download("FashionMNIST", root, "fashion-mnist", download)
        folder = _find(candidates, files)
    if folder is None:
        raise FsgError(f"{root}: has no complete Fashion-MNIST; remove what is there and try again")

    def part(prefix: str) -> tuple[Images, Labels]:
        image_file, label_file = (
            next(path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file())
            for stem in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        )
        grey, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if grey.shape[1:] != (28, 28) or not len(grey):
            raise FsgError(f"{image_file}: holds {list(grey.shape)}, no 28x28 images; fetch it anew")
        if len(labels) != len(grey) or labels.max() > 9:
            raise FsgError(f"{label_file}: is not one label 0 to 9 for each of {len(grey)} images; fetch it anew")
        padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
        return np.repeat(padded[:, None], 3, axis=1), labels.astype(np.int64)

    x_test, y_test = part("t10k")
    x_train, y_train = empty_like(x_test) if test_only else part("train")
    return Parts(x_train, y_train, x_test, y_test, FASHION_NAMES)


def _find(folders: tuple[Path, ...], files: tuple[tuple[str, ...], ...]) -> Path | None:
    """Return the first folder that has every file, under one of each file's names."""
    for folder in folders:
        if all(any((folder / name).is_file() for name in names) for names in files):
            return folder
    return None


def _download(torchvision_name: str, root: Path, name: str, download: bool) -> None:
    """Let torchvision fetch a data set into `root`, and check its md5."""
    if not download:
        raise FsgError(f"{root}: has no {name}; allow the download or give the folder that has it as data_dir")
    from fsg.training.vision import import_torchvision

    datasets = import_torchvision().datasets
    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(datasets, torchvision_name)(root, download=True)
    except Exception as error:  # network, disk and checksum failures each have their own types
        raise FsgError(
            f"downloading {name} to {root} failed ({why(error)}); "
            "try again, or fetch it by hand and give its folder as data_dir"
        ) from error


# --- batches and augmentation -----------------------------------------------------------------------------


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
