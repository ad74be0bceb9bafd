"""Data sets: what is read is what was written, and no damaged file gets through or does harm."""

import gzip
import os
import pickle
import struct
import subprocess
import sys
import types
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from fsg import FsgError
from fsg.training.data import files as data_files
from fsg.training.data import load as data
from fsg.training.data.augment import apply_changes, augment, batches, draw_changes
from fsg.training.data.feed import apply_changes_on_device
from fsg.training.data.load import check_spec, load_dataset

RNG = np.random.default_rng(0)


def pictures(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def refusal(*parts: str | Path) -> pytest.RaisesExc[FsgError]:
    """The FsgError of one line that has all of these parts."""

    def fits(error: FsgError) -> bool:
        text = str(error)
        assert "\n" not in text and all(str(part) in text for part in parts), text
        return True

    return pytest.RaisesExc(FsgError, check=fits)


# --- specs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["digits", "cifar10", "cifar100", "fashion-mnist", "folder:x", "npz:/a:b.npz"])
def test_known_specs_pass_without_a_file_being_there(spec: str) -> None:
    check_spec(spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("CIFAR10", "did you mean cifar10?"),
        ("cifar-100", "did you mean cifar100?"),
        ("fashionmnist", "did you mean fashion-mnist?"),
        ("fodler:pictures", "did you mean folder:PATH?"),
        ("images/data.npz", "did you mean npz:images/data.npz?"),
        ("./images", "did you mean folder:./images?"),
        ("npz:", "write npz:PATH"),
        ("folder", "write folder:PATH"),
        ("cifar10:/data", "data_dir"),
        ("", "There are digits, cifar10, cifar100, fashion-mnist, folder:PATH, npz:PATH"),
        ("zzzz", "There are digits, cifar10"),
    ],
)
def test_a_wrong_spec_is_refused_with_a_hint(spec: str, hint: str) -> None:
    with refusal(repr(spec), hint):
        check_spec(spec)
    with refusal(repr(spec), hint):
        load_dataset(spec)


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


# --- npz --------------------------------------------------------------------------------------------------


def npz_arrays(**changes: object) -> dict[str, object]:
    arrays = {
        "x_train": pictures(6, 3, 8, 10),
        "y_train": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "x_test": pictures(4, 3, 8, 10),
        "y_test": np.array([0, 1, 2, 2], np.int16),
        **changes,
    }
    return {key: value for key, value in arrays.items() if value is not None}


def save_npz(path: Path, **changes: object) -> dict[str, object]:
    arrays = npz_arrays(**changes)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return arrays


def test_npz_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = save_npz(path, class_names=np.array(["a", "b", "c", "never seen"]))
    loaded = load_dataset(f"npz:{path}")
    for key in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(loaded, key), arrays[key])
    assert loaded.y_test.dtype == np.int64
    assert loaded.class_names == ("a", "b", "c", "never seen") and loaded.num_classes == 4
    assert loaded.shape == (3, 8, 10) and loaded.name == f"npz:{path}"
    scaled = loaded.x_train / 255
    np.testing.assert_allclose(loaded.mean, scaled.mean(axis=(0, 2, 3)), atol=5.1e-5)
    np.testing.assert_allclose(loaded.std, scaled.std(axis=(0, 2, 3)), atol=5.1e-5)


def test_npz_layouts(tmp_path: Path) -> None:
    images = pictures(5, 3, 8, 10)
    labels = np.zeros(5, int)
    for given, expected in [
        (images.transpose(0, 2, 3, 1), images),
        (images[:, 0], images[:, :1]),
        (images[:, :1].transpose(0, 2, 3, 1), images[:, :1]),
        (images[:, :2], images[:, :2]),
        (images[:, :, :, :3], images[:, :, :, :3]),
    ]:
        save_npz(tmp_path / "a.npz", x_train=given, y_train=labels, x_test=given, y_test=labels)
        loaded = load_dataset(f"npz:{tmp_path / 'a.npz'}")
        assert np.array_equal(loaded.x_train, expected) and loaded.x_train.flags.c_contiguous
        assert loaded.num_classes == 1


def test_npz_with_a_test_part_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = save_npz(path, x_train=None, y_train=None)
    loaded = load_dataset(f"npz:{path}", test_only=True)
    assert np.array_equal(loaded.x_test, arrays["x_test"])
    assert loaded.x_train.shape == (0, 3, 8, 10) and loaded.y_train.shape == (0,)
    assert loaded.mean == loaded.std == () and loaded.num_classes == 3
    with refusal(path, "lacks x_train, y_train"):
        load_dataset(f"npz:{path}")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"y_test": None}, ("lacks y_test",)),
        ({"x_train": np.zeros((6, 3, 8, 10), np.float32)}, ("x_train is float32", "uint8")),
        ({"x_train": np.zeros((6, 240), np.uint8)}, ("x_train is uint8 [6, 240]",)),
        ({"x_test": np.zeros((0, 3, 8, 10), np.uint8)}, ("x_test", "non-empty")),
        ({"x_test": pictures(4, 3, 8, 8)}, ("[3, 8, 10] in x_train, but [3, 8, 8] in x_test",)),
        ({"y_train": np.zeros(6)}, ("y_train is float64", "integer labels")),
        ({"y_train": np.zeros((6, 1), int)}, ("y_train is int64 [6, 1]",)),
        ({"y_train": np.zeros(5, int)}, ("y_train has 5 labels for 6 images",)),
        ({"y_test": np.array([0, 1, -1, 0])}, ("y_test holds the label -1",)),
        ({"y_test": np.array([0, 1, 2**63, 0], np.uint64)}, ("y_test holds the label 9223372036854775808",)),
        ({"class_names": np.array(["a", "b"])}, ("the label 2 but 2 class_names",)),
        ({"class_names": np.arange(3)}, ("class_names is int64 [3]", "strings")),
        ({"class_names": np.array(["a", "b", "c"], object)}, ("cannot be read", "allow_pickle")),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path: Path, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    path = tmp_path / "a.npz"
    save_npz(path, **changes)
    with refusal(path, *parts):
        load_dataset(f"npz:{path}")


def test_an_npz_that_would_unpickle_code_does_not(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "trace"
    save_npz(path, x_test=np.array([Run(f"touch {trace}")] * 4, object))
    with refusal(path):
        load_dataset(f"npz:{path}")
    assert not trace.exists()


def test_a_missing_or_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with refusal(path, "No such file"):
        load_dataset(f"npz:{path}")
    with refusal(tmp_path, "directory"):
        load_dataset(f"npz:{tmp_path}")
    save_npz(path)
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with refusal(path, "not an .npz file"):
            load_dataset(f"npz:{path}")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with refusal("b.npy", "not an .npz file"):
        load_dataset(f"npz:{tmp_path / 'b.npy'}")


def test_any_flipped_byte_in_an_npz_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_npz(path)
    whole = path.read_bytes()
    intact = load_dataset(f"npz:{path}")
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            loaded = load_dataset(f"npz:{path}")
        except FsgError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert np.array_equal(loaded.x_test, intact.x_test)


# --- folders of images ------------------------------------------------------------------------------------


def make_folder(root: Path, names: tuple[str, ...] = ("bee", "ant"), size: tuple[int, int] = (6, 5)) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pictures(size[1], size[0], 3)).save(folder / f"{number}.png")


def test_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "train" / "ant" / ".DS_Store").write_bytes(b"no image")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    calls: list[tuple[int, int]] = []
    loaded = load_dataset(f"folder:{tmp_path}", progress=lambda done, total: calls.append((done, total)))
    assert loaded.class_names == ("ant", "bee") and loaded.shape == (3, 5, 6)
    assert loaded.y_train.tolist() == [0, 0, 0, 1, 1, 1] and loaded.y_test.tolist() == [0, 0, 1, 1]
    with Image.open(tmp_path / "train" / "bee" / "1.png") as image:
        assert np.array_equal(loaded.x_train[4], np.asarray(image).transpose(2, 0, 1))
    with Image.open(tmp_path / "test" / "ant" / "1.png") as image:
        assert np.array_equal(loaded.x_test[1], np.asarray(image).transpose(2, 0, 1))
    assert calls == [(6, 10), (10, 10)]
    assert len(loaded.mean) == 3


def test_folder_larger_than_a_chunk_keeps_every_image_in_its_place(tmp_path: Path) -> None:
    for part, count in (("train", 600), ("test", 1)):
        (tmp_path / part / "only").mkdir(parents=True)
        for number in range(count):
            colour = (number % 256, number // 256, 7)
            Image.new("RGB", (2, 3), colour).save(tmp_path / part / "only" / f"{number:04}.bmp")
    loaded = load_dataset(f"folder:{tmp_path}")
    assert np.array_equal(loaded.x_train[:, 0, 0, 0] + 256 * loaded.x_train[:, 1, 2, 1].astype(int), np.arange(600))
    assert np.all(loaded.x_train[:, 2] == 7)


def test_folder_takes_grey_and_palette_images_as_rgb(tmp_path: Path) -> None:
    make_folder(tmp_path, ("a",))
    grey = Image.fromarray(pictures(5, 6))
    grey.save(tmp_path / "test" / "a" / "0.png")
    Image.new("P", (6, 5), 0).save(tmp_path / "test" / "a" / "1.gif")
    loaded = load_dataset(f"folder:{tmp_path}")
    assert np.array_equal(loaded.x_test[0], np.stack([np.asarray(grey)] * 3))


def test_folder_with_a_test_part_alone(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    loaded = load_dataset(f"folder:{tmp_path}", test_only=True)
    assert loaded.class_names == ("ant", "bee") and loaded.x_test.shape == (4, 3, 5, 6)
    assert loaded.x_train.shape == (0, 3, 5, 6) and loaded.mean == ()
    with refusal(tmp_path / "train", "No such file"):
        load_dataset(f"folder:{tmp_path}")


def test_wrong_folders_are_refused_by_name(tmp_path: Path) -> None:
    spec = f"folder:{tmp_path}"
    with refusal(tmp_path / "test", "No such file"):
        load_dataset(spec)
    (tmp_path / "test").mkdir()
    with refusal(tmp_path / "test", "has no folders"):
        load_dataset(spec)
    (tmp_path / "test").rmdir()
    make_folder(tmp_path)

    (tmp_path / "test" / "wasp").mkdir()
    with refusal(tmp_path / "test" / "wasp", "no such class"):
        load_dataset(spec)
    (tmp_path / "train" / "wasp").mkdir()
    with refusal(tmp_path / "train" / "wasp", "has no images"):
        load_dataset(spec)
    (tmp_path / "test" / "wasp").rmdir()
    with refusal(tmp_path / "test" / "wasp", "is missing"):
        load_dataset(spec)


def test_wrong_images_are_refused_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path)
    path = tmp_path / "test" / "bee" / "1.png"
    whole = path.read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2], whole[:20] + b"\xff" * 20 + whole[40:]):
        path.write_bytes(damaged)
        with refusal(path, "not a readable image"):
            load_dataset(f"folder:{tmp_path}")
    Image.new("RGB", (7, 5)).save(path)
    with refusal(path, "is 7x5 pixels", tmp_path / "train" / "ant" / "0.png", "is 6x5", "resize"):
        load_dataset(f"folder:{tmp_path}")
    Image.fromarray(np.full((5, 6), 40_000, np.uint16)).save(path)
    with refusal(path, "8 bits"):
        load_dataset(f"folder:{tmp_path}")


# --- CIFAR ------------------------------------------------------------------------------------------------


class Run:
    """Unpickles by running a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def python2_pickle(value: object) -> bytes:
    """Write `value` with the opcodes that Python 2 and NumPy 1 used for the published CIFAR files."""

    def integer(number: int) -> bytes:
        return b"K" + bytes([number]) if number < 256 else b"J" + struct.pack("<i", number)

    def write(value: object) -> bytes:
        match value:
            case int():
                return integer(value)
            case str():
                return b"U" + bytes([len(value)]) + value.encode()
            case list():
                return b"](" + b"".join(map(write, value)) + b"e"
            case dict():
                return b"}(" + b"".join(write(k) + write(v) for k, v in value.items()) + b"u"
            case np.ndarray():
                fortran = value.flags.f_contiguous and not value.flags.c_contiguous
                raw = value.tobytes("A")
                return (
                    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
                    b"(K\x01" + integer(value.shape[0]) + integer(value.shape[1]) + b"\x86"
                    b"cnumpy\ndtype\nU\x02" + value.dtype.str[1:].encode() + b"K\x00K\x01\x87R"
                    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
                    + (b"\x88" if fortran else b"\x89")
                    + (b"T" + struct.pack("<i", len(raw)) + raw)
                    + b"tb"
                )
        raise AssertionError(value)

    return b"\x80\x02" + write(value) + b"."


def test_the_pickle_writer_of_these_tests_writes_real_pickles() -> None:
    array = pictures(3, 4)
    for given in (array, np.asfortranarray(array)):
        loaded = pickle.loads(python2_pickle({"data": given, "labels": [1, 300]}), encoding="latin-1")
        assert np.array_equal(loaded["data"], array) and loaded["labels"] == [1, 300]


def make_cifar10(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write a CIFAR-10 of 5 x 4 training and 4 test images; return all images and labels in order."""
    folder.mkdir(parents=True)
    images, labels = pictures(24, 3, 32, 32), RNG.integers(0, 10, 24)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        rows = images[4 * number : 4 * number + 4].reshape(4, 3072)
        if number % 2:
            rows = np.asfortranarray(rows)
        content = {"batch_label": name, "labels": labels[4 * number : 4 * number + 4].tolist(), "data": rows}
        (folder / name).write_bytes(python2_pickle(content))
    meta = {"num_cases_per_batch": 4, "label_names": [f"class {n}" for n in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return images, labels


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


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_fashion(folder: Path, zipped: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    for prefix, count in (("train", 7), ("t10k", 3)):
        arrays[f"{prefix}-images-idx3-ubyte"] = pictures(count, 28, 28)
        arrays[f"{prefix}-labels-idx1-ubyte"] = RNG.integers(0, 10, count, dtype=np.uint8)
    for stem, array in arrays.items():
        if zipped:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / stem).write_bytes(idx(array))
    return arrays


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


# --- statistics, batches, augmentation --------------------------------------------------------------------


def test_statistics_span_many_steps_and_never_give_a_zero_std() -> None:
    images = pictures(2500, 2, 3, 3)
    images[:, 0] = 51
    images[2000:, 1] //= 4
    mean, std = data.channel_statistics(images)
    assert mean[0] == 0.2 and std[0] == 0.001
    assert mean[1] == pytest.approx((images[:, 1] / 255).mean(), abs=5.1e-5)
    assert std[1] == pytest.approx((images[:, 1] / 255).std(), abs=5.1e-5)


def test_batches_cover_everything_once() -> None:
    whole = list(batches(10, 4, None, False))
    assert [b.tolist() for b in whole] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.tolist() for b in batches(10, 4, None, True)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(list(batches(8, 4, None, True))) == 2
    shuffled = np.concatenate(list(batches(100, 7, np.random.default_rng(1), False)))
    assert sorted(shuffled) == list(range(100)) and shuffled.tolist() != list(range(100))
    again = np.concatenate(list(batches(100, 7, np.random.default_rng(1), False)))
    assert np.array_equal(shuffled, again)


def test_batch_sizes_that_make_no_batch_are_refused_at_once() -> None:
    for batch_size, drop_last in ((0, False), (-1, True), (11, True)):
        with refusal(f"batch size {batch_size}", "1 to 10"):
            batches(10, batch_size, None, drop_last)
    assert [len(b) for b in batches(10, 11, None, False)] == [10]


def test_augment_crops_and_mirrors_each_image_for_itself() -> None:
    images = pictures(300, 3, 5, 7)
    result = augment(images, np.random.default_rng(3), pad=2, flip=True)
    assert result.shape == images.shape and result.dtype == np.uint8 and result.flags.c_contiguous
    found: dict[tuple[int, int, bool], int] = {}
    for image, changed in zip(images, result, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        crops = {
            (top, left, flipped): padded[:, top : top + 5, left : left + 7][:, :, :: -1 if flipped else 1]
            for top in range(5)
            for left in range(5)
            for flipped in (False, True)
        }
        (match,) = [key for key, crop in crops.items() if np.array_equal(crop, changed)]
        found[match] = found.get(match, 0) + 1
    # 50 equally likely outcomes, 300 draws: a missing or crowded one would be a biased draw.
    assert len(found) >= 46 and max(found.values()) <= 18
    assert 110 < sum(count for (_, _, flipped), count in found.items() if flipped) < 190


@hypothesis.given(
    count=st.integers(1, 5), channels=st.integers(1, 3), size=st.tuples(*[st.integers(1, 9)] * 2), pad=st.integers(0, 4)
)
@hypothesis.settings(deadline=None, max_examples=30)
def test_changes_on_a_device_and_of_a_part_are_those_of_the_whole(
    count: int, channels: int, size: tuple[int, int], pad: int
) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (2 * count, channels, *size), dtype=np.uint8)
    changes = draw_changes(2 * count, rng, pad=pad, flip=True)
    whole = apply_changes(images, changes, pad)
    part = slice(count, 2 * count)
    np.testing.assert_array_equal(apply_changes(images[part], changes.part(part), pad), whole[part])
    on_device = apply_changes_on_device(torch.from_numpy(images), changes, pad)
    np.testing.assert_array_equal(on_device.numpy(), whole)


def test_augment_without_changes_copies() -> None:
    images = pictures(4, 1, 5, 5)
    before = images.copy()
    result = augment(images, np.random.default_rng(0), pad=0, flip=False)
    assert np.array_equal(result, images) and not np.shares_memory(result, images)
    augment(images, np.random.default_rng(0), pad=3, flip=True)
    assert np.array_equal(images, before)


def test_augment_is_repeatable() -> None:
    images = pictures(20, 3, 8, 8)
    first, second = (augment(images, np.random.default_rng(5), pad=4, flip=True) for _ in range(2))
    assert np.array_equal(first, second)


# --- a small installation ---------------------------------------------------------------------------------


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_npz_works_and_the_rest_explains_itself_where_only_numpy_is(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz")
    make_folder(tmp_path / "images")
    output = run_python(f"""
import sys
missing = ("torch", "torchvision", "PIL", "sklearn")
for name in missing:
    sys.modules[name] = None
from fsg import FsgError
from fsg.training.data.load import load_dataset
print(load_dataset("npz:{tmp_path}/a.npz", test_only=True).x_test.shape)
for spec in ("digits", "folder:{tmp_path}/images", "cifar10", "fashion-mnist"):
    try:
        load_dataset(spec, data_dir="{tmp_path}")
    except FsgError as error:
        print(error)
""")
    lines = output.splitlines()
    assert lines[0] == "(4, 3, 8, 10)"
    assert len(lines) == 5 and all("pip install 'fsg[train]'" in line for line in lines[1:])


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    make_fashion(tmp_path / "fashion", False)
    output = run_python(f"""
import sys
from fsg.training.data.load import load_dataset
load = {{"torch", "torchvision", "PIL", "sklearn"}} & set(sys.modules)
load_dataset("digits")
load_dataset("folder:{tmp_path}/images")
load_dataset("fashion-mnist", data_dir="{tmp_path}/fashion")
print(load, "torch" in sys.modules)
""")
    assert output == "set() False\n"


def test_torchvision_imports_here() -> None:
    output = run_python("""
from fsg.training.data.vision import import_torchvision
torchvision = import_torchvision()
assert import_torchvision() is torchvision
import torch
from torchvision.transforms import v2
print(torchvision.datasets.CIFAR10.__name__, v2.CenterCrop(4)(torch.zeros(3, 8, 8)).shape)
""")
    assert output == "CIFAR10 torch.Size([3, 4, 4])\n"


def test_only_the_known_torchvision_failure_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsg.training.data import vision

    def fail(name: str) -> types.ModuleType:
        raise RuntimeError("another failure")

    monkeypatch.setattr(vision.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="another failure"):
        vision.import_torchvision()
    assert data_files.why(RuntimeError("a\n  b")) == "a b"
