"""Files of data sets as their publishers write them, damaged ones too, and what a refusal of them looks like."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsg import FsgError

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


def make_folder(root: Path, names: tuple[str, ...] = ("bee", "ant"), size: tuple[int, int] = (6, 5)) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pictures(size[1], size[0], 3)).save(folder / f"{number}.png")


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
