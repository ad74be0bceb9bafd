"""digits, CIFAR and Fashion-MNIST: what is read is what was published, and no damaged file does harm."""

import pickle
import types
from pathlib import Path

import numpy as np
import pytest
from dataset_files import Run, idx, make_cifar10, make_fashion, pictures, python2_pickle, refusal
from PIL import Image

from fsg.training.data import load as data
from fsg.training.data.load import load_dataset

# --- digits -----------------------------------------------------------------------------------------------


def test_digits_are_split_evenly_and_completely() -> None:
    digits = load_dataset("digits")
    assert digits.x_train.shape == (1437, 3, 32, 32) and digits.x_test.shape == (360, 3, 32, 32)
    assert digits.x_train.dtype == digits.x_test.dtype == np.uint8
    assert digits.y_train.dtype == digits.y_test.dtype == np.int64
    assert digits.shape == (3, 32, 32) and digits.num_classes == 10
    train, test = np.bincount(digits.y_train), np.bincount(digits.y_test)
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.all(abs(test - (train + test) / 5) < 1)
    assert not digits.flip and digits.pad == 4


def test_digits_are_enlarged_as_pillow_enlarges() -> None:
    from sklearn.datasets import load_digits

    digits = load_dataset("digits")
    images = np.concatenate([digits.x_train, digits.x_test])
    assert np.array_equal(images[:, 0], images[:, 1]) and np.array_equal(images[:, 0], images[:, 2])
    labels = np.concatenate([digits.y_train, digits.y_test])
    source = load_digits()
    for index in range(0, len(source.images), 50):
        small = Image.fromarray(source.images[index].astype(np.float32) * (255 / 16))
        expected = np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR))
        difference = np.abs(images[:, 0] - expected).max(axis=(1, 2))
        assert difference.min() < 0.51
        assert labels[difference.argmin()] == source.target[index]


# --- CIFAR ------------------------------------------------------------------------------------------------


def test_the_pickle_writer_of_these_tests_writes_real_pickles() -> None:
    array = pictures(3, 4)
    for given in (array, np.asfortranarray(array)):
        loaded = pickle.loads(python2_pickle({"data": given, "labels": [1, 300]}), encoding="latin-1")
        assert np.array_equal(loaded["data"], array) and loaded["labels"] == [1, 300]


def test_cifar10_is_read_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    images, labels = make_cifar10(folder)
    for data_dir in (tmp_path, folder, None):
        monkeypatch.setenv("FSG_DATA", str(tmp_path))
        loaded = load_dataset("cifar10", data_dir=data_dir, download=False)
        assert np.array_equal(loaded.x_train, images[:20]) and np.array_equal(loaded.x_test, images[20:])
        assert np.array_equal(loaded.y_train, labels[:20]) and np.array_equal(loaded.y_test, labels[20:])
    assert loaded.class_names[3] == "class 3" and loaded.flip and loaded.pad == 4
    assert loaded.mean == (0.4914, 0.4822, 0.4465) and loaded.std == (0.2023, 0.1994, 0.2010)
    alone = load_dataset("cifar10", data_dir=tmp_path, test_only=True)
    assert len(alone.x_train) == 0 and np.array_equal(alone.x_test, images[20:])
    loaded.x_train[0] = 0  # not a read-only view of the file's bytes


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    images = pictures(5, 3, 32, 32)
    for name in ("train", "test"):
        content = {"coarse_labels": [1] * 5, "fine_labels": [0, 99, 5, 6, 7], "data": images.reshape(5, 3072)}
        (folder / name).write_bytes(python2_pickle(content))
    names = [f"fine {n}" for n in range(100)]
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": names, "coarse_label_names": ["c"] * 20}))
    loaded = load_dataset("cifar100", data_dir=folder, download=False)
    assert loaded.y_test.tolist() == [0, 99, 5, 6, 7] and loaded.class_names[99] == "fine 99"
    assert np.array_equal(loaded.x_train, images) and loaded.num_classes == 100


def test_a_cifar_pickle_runs_no_code(tmp_path: Path) -> None:
    folder, trace = tmp_path / "cifar-10-batches-py", tmp_path / "trace"
    make_cifar10(folder)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (folder / "data_batch_2").write_bytes(pickle.dumps({"data": Run(f"touch {trace}")}, protocol))
        with refusal(folder / "data_batch_2", "system", "fetch it anew"):
            load_dataset("cifar10", data_dir=tmp_path)
    assert not trace.exists()


def test_a_forged_dtype_never_reaches_numpy(tmp_path: Path) -> None:
    # NumPy itself would take the bytes for object pointers and crash.
    folder = tmp_path / "cifar-10-batches-py"
    make_cifar10(folder)
    forged = python2_pickle({"data": pictures(2, 8)}).replace(b"U\x02u1", b"U\x02O8")
    (folder / "test_batch").write_bytes(forged)
    with refusal(folder / "test_batch", "'O8'"):
        load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "not a CIFAR file"),
        ({"labels": [1] * 4}, "no images"),
        ({"data": pictures(4, 3071), "labels": [1] * 4}, "no images of 3072"),
        ({"data": pictures(4, 3072)}, "no list of labels"),
        ({"data": pictures(4, 3072), "labels": ["cat"] * 4}, "no list of labels"),
        ({"data": pictures(4, 3072), "labels": [1] * 3}, "3 labels do not fit 4 images"),
        ({"data": pictures(4, 3072), "labels": [1, 2, 3, 10]}, "do not fit"),
    ],
)
def test_an_inconsistent_cifar_file_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    make_cifar10(folder)
    (folder / "test_batch").write_bytes(python2_pickle(content))
    with refusal(folder / "test_batch", reason):
        load_dataset("cifar10", data_dir=tmp_path)


def test_a_truncated_cifar_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    make_cifar10(folder)
    whole = (folder / "test_batch").read_bytes()
    for length in (0, 1, 50, 200, len(whole) - 1):
        (folder / "test_batch").write_bytes(whole[:length])
        with refusal(folder / "test_batch", "not a CIFAR file"):
            load_dataset("cifar10", data_dir=tmp_path)


def test_downloads_go_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []

    def fetch(root: Path, download: bool) -> None:
        assert download
        fetched.append(root)
        if len(fetched) == 1:
            raise ConnectionError("no route\nto host")
        make_cifar10(root / "cifar-10-batches-py")

    module = types.SimpleNamespace(datasets=types.SimpleNamespace(CIFAR10=fetch))
    monkeypatch.setattr("fsg.training.data.vision.import_torchvision", lambda: module)
    root = tmp_path / "new" / "folder"
    with refusal(root, "no such folder"):
        load_dataset("cifar10", data_dir=root)
    monkeypatch.setenv("FSG_DATA", str(root))
    with refusal(root, "has no cifar10"):
        load_dataset("cifar10", download=False)
    assert not fetched and not root.exists()
    with refusal(root, "no route to host", "by hand"):
        load_dataset("cifar10")
    assert len(load_dataset("cifar10").x_train) == 20
    assert len(load_dataset("cifar10", data_dir=root).x_train) == 20
    assert fetched == [root, root]

    # One file lost: fetched again, in the same place.
    folder = root / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    monkeypatch.setattr(module.datasets, "CIFAR10", lambda root, download: fetched.append(root))
    with refusal("no complete cifar-10-batches-py"):
        load_dataset("cifar10", data_dir=folder)
    assert fetched[-1] == root


# --- Fashion-MNIST ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw", "fashion-mnist"])
def test_fashion_mnist_is_read_as_written(tmp_path: Path, zipped: bool, below: str) -> None:
    root = tmp_path / "data"
    arrays = make_fashion(root / below, zipped)
    loaded = load_dataset("fashion-mnist", data_dir=root, download=False)
    for images, labels, prefix in (
        (loaded.x_train, loaded.y_train, "train"),
        (loaded.x_test, loaded.y_test, "t10k"),
    ):
        grey = arrays[f"{prefix}-images-idx3-ubyte"]
        assert images.shape == (len(grey), 3, 32, 32)
        for channel in range(3):
            assert np.array_equal(images[:, channel, 2:30, 2:30], grey)
        assert images.sum() == 3 * grey.sum()  # the border is black
        assert np.array_equal(labels, arrays[f"{prefix}-labels-idx1-ubyte"]) and labels.dtype == np.int64
    assert loaded.num_classes == 10 and len(loaded.mean) == len(loaded.std) == 3


def test_fashion_mnist_test_part_alone(tmp_path: Path) -> None:
    make_fashion(tmp_path / "data", False)
    for path in (tmp_path / "data").glob("train*"):
        path.unlink()
    alone = load_dataset("fashion-mnist", data_dir=tmp_path / "data", test_only=True)
    assert len(alone.x_test) == 3 and len(alone.x_train) == 0
    with refusal(tmp_path / "data", "has no fashion-mnist"):
        load_dataset("fashion-mnist", data_dir=tmp_path / "data", download=False)


def test_a_wrong_idx_file_is_refused(tmp_path: Path) -> None:
    arrays = make_fashion(tmp_path / "data", False)
    images, labels = (tmp_path / "data" / f"t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    good = idx(arrays[images.name])
    cases = [
        (images, b"", "not an IDX file"),
        (images, good[:10], "not an IDX file"),
        (images, b"\0\0\x0d" + good[3:], "not an IDX file"),
        (images, idx(arrays[labels.name]), "not an IDX file"),
        (images, good[:-1], "holds 2351 values where its header says 2352"),
        (images, good + b"\0", "holds 2353 values"),
        (images, good[:4] + b"\xff" * 12 + good[16:], "holds 2352 values"),
        (images, idx(pictures(3, 27, 28)), "no 28x28 images"),
        (labels, idx(np.zeros(4, np.uint8)), "not one label 0 to 9 for each of 3 images"),
        (labels, idx(np.array([1, 2, 10], np.uint8)), "not one label 0 to 9"),
    ]
    for path, content, reason in cases:
        whole = path.read_bytes()
        path.write_bytes(content)
        with refusal(path, reason):
            load_dataset("fashion-mnist", data_dir=tmp_path / "data")
        path.write_bytes(whole)


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    make_fashion(tmp_path / "data", True)
    path = tmp_path / "data" / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-9], whole[: len(whole) // 2], b"no gzip", whole[:100] + b"\0" * 50 + whole[150:]):
        path.write_bytes(content)
        with refusal(path, "fetch it anew"):
            load_dataset("fashion-mnist", data_dir=tmp_path / "data")


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_fashion_mnist() -> None:
    loaded = load_dataset("fashion-mnist", data_dir=DEBIAN, download=False)
    assert np.bincount(loaded.y_train).tolist() == [6000] * 10
    assert np.bincount(loaded.y_test).tolist() == [1000] * 10
    mean, std = data.channel_statistics(loaded.x_train[:, :, 2:30, 2:30])
    assert (mean, std) == (loaded.mean, loaded.std)
