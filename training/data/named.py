"""Data sets that have a name: digits, CIFAR and Fashion-MNIST."""

import os
from pathlib import Path

import numpy as np

from fsg import FsgError, why
from fsg.training.data.archives import read_cifar, read_idx
from fsg.training.data.sets import Images, Labels, Parts, empty_like, need

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
STATISTICS: dict[str, Statistics] = {
    # The usual figures; the std is the mean over the images of each one's own std.
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    # Without the border that read_fashion_mnist adds.
    "fashion-mnist": ((0.2860,) * 3, (0.3530,) * 3),
}
"""Mean and std per channel of the training images / 255, as usually published."""

FASHION_NAMES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def read_digits(test_only: bool) -> Parts:
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


def named_cifar(name: str, root: Path, download: bool, test_only: bool) -> Parts:
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


def read_fashion_mnist(root: Path, download: bool, test_only: bool) -> Parts:
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
        if all(any(os.path.isfile(folder / name) for name in names) for names in files):
            return folder
    return None


def _download(torchvision_name: str, root: Path, name: str, download: bool) -> None:
    """Let torchvision fetch a data set into `root`, and check its md5."""
    if not download:
        raise FsgError(f"{root}: has no {name}; allow the download or give the folder that has it as data_dir")
    from fsg.training.data.vision import import_torchvision

    datasets = import_torchvision().datasets
    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(datasets, torchvision_name)(root, download=True)
    except Exception as error:  # network, disk and checksum failures each have their own types
        raise FsgError(
            f"downloading {name} to {root} failed ({why(error)}); "
            "try again, or fetch it by hand and give its folder as data_dir"
        ) from error
