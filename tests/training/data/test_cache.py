"""Decoded pictures are kept as decoding gives them; whatever is wrong with what is kept, they are decoded."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import make_folder
from PIL import Image

from fsg import FsgError
from fsg.runtime.pictures import read_picture
from fsg.training.data import cache
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import DataOptions, Dataset, smaller


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, one of them grey and one damaged, none too few to be kept; the cache is in data/decoded."""
    monkeypatch.setenv("FSG_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cache, "LEAST_BYTES", 1)
    make_folder(tmp_path / "pictures")
    Image.new("L", (6, 5), 7).save(tmp_path / "pictures" / "train" / "bee" / "1.png")
    (tmp_path / "pictures" / "train" / "ant" / "1.png").write_bytes(b"no image")
    return tmp_path / "pictures"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each decoding had."""
    found: list[int] = []
    decode = cache.decode

    def counted(files, *how, **more):  # type: ignore[no-untyped-def]
        found.append(len(files))
        return decode(files, *how, **more)

    monkeypatch.setattr(cache, "decode", counted)
    return found


def load(folder: Path, **how: object) -> Dataset:
    return load_dataset(f"folder:{folder}", **how)  # type: ignore[arg-type]


def same(first: Dataset, second: Dataset) -> bool:
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)
    return arrays and (first.notes, first.mean, first.std) == (second.notes, second.mean, second.std)


def test_pictures_are_decoded_once(folder: Path, decodings: list[int]) -> None:
    calls: list[tuple[int, int]] = []
    data = load(folder)
    again = load(folder, progress=lambda done, total: calls.append((done, total)))
    assert decodings == [6, 4] and same(data, again) and calls == [(6, 10), (10, 10)]
    assert any("left out" in note for note in data.notes) and any("grey" in note for note in data.notes)
    assert np.array_equal(load(folder, test_only=True).x_test, data.x_test) and decodings == [6, 4]
    assert isinstance(again.x_test, np.memmap) and len(smaller(again, 2).x_train) == 2
    assert load(folder, options=DataOptions(image_size=3)).shape == (3, 3, 3) and decodings == [6, 4, 6, 4]


def test_pictures_of_other_sizes_are_not_kept(folder: Path) -> None:
    Image.new("RGB", (7, 5)).save(folder / "train" / "ant" / "0.png")
    with pytest.raises(FsgError, match="is 7x5 pixels, but there are 8 of 6x5"):
        load(folder)
    assert len(list((folder.parent / "data" / "decoded").glob("*"))) == 0


def test_what_was_changed_is_decoded_anew(folder: Path, decodings: list[int]) -> None:
    load(folder)
    path = folder / "test" / "ant" / "0.png"
    Image.new("RGB", (6, 5), (9, 8, 7)).save(path)
    os.utime(path, ns=(1, 1))
    assert (load(folder).x_test[0, :, 0, 0] == (9, 8, 7)).all() and decodings == [6, 4, 4]
    path.rename(path.with_name("7.png"))
    assert (load(folder).x_test[1, :, 0, 0] == (9, 8, 7)).all() and decodings == [6, 4, 4, 4]


@pytest.mark.parametrize("damage", ["empty", "short", "bit", "tail", "other"])
def test_a_damaged_file_is_written_anew(folder: Path, decodings: list[int], damage: str) -> None:
    data = load(folder)
    kept = sorted((folder.parent / "data" / "decoded").iterdir())
    assert [path.suffix for path in kept] == [".npy", ".npy"]
    for path in kept:
        content = bytearray(path.read_bytes())
        content[200] ^= 1 if damage == "bit" else 0
        content[-9] ^= 64 if damage == "tail" else 0
        if damage == "other":
            np.save(path, np.zeros((2, 3, 5, 6), np.uint8))
        else:
            path.write_bytes(content[: {"empty": 0, "short": 300}.get(damage, len(content))])
    assert same(load(folder), data) and decodings == [6, 4, 6, 4]
    assert same(load(folder), data) and decodings == [6, 4, 6, 4]


def test_pictures_that_can_be_read_by_now_are(folder: Path, decodings: list[int]) -> None:
    path = folder / "train" / "ant" / "1.png"
    path.write_bytes((folder / "train" / "ant" / "2.png").read_bytes())
    with pytest.MonkeyPatch.context() as patch:  # as root reads whatever it likes
        patch.setattr("fsg.training.data.decoded.read_picture", refuse_one(path, read_picture))
        assert len(load(folder).x_train) == 5
    assert len(load(folder).x_train) == 6 and decodings == [6, 4, 6]
    assert len(load(folder).x_train) == 6 and decodings == [6, 4, 6]


def refuse_one(refused: Path, read: Callable[..., Any]) -> Callable[..., Any]:
    def reading(path: Path, *names: object, **how: object) -> Any:
        if path == refused:
            raise FsgError(f"{path}: permission denied")
        return read(path, *names, **how)

    return reading


def test_where_nothing_can_be_kept_pictures_are_decoded(folder: Path, decodings: list[int]) -> None:
    (folder.parent / "data").write_text("a file where the folder would be")
    assert same(load(folder), load(folder)) and decodings == [6, 4, 6, 4]


def test_what_was_not_used_for_long_goes_and_few_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder, options=DataOptions(image_size=3))
    store = folder.parent / "data" / "decoded"
    old = set(store.iterdir())
    for path in old:
        os.utime(path, (0, time.time() - 31 * 86_400))
    load(folder)
    assert len(list(store.iterdir())) == 2 and not old & set(store.iterdir())
    monkeypatch.setattr(cache, "LEAST_BYTES", 1 << 20)
    load(folder, options=DataOptions(image_size=3))
    assert len(list(store.iterdir())) == 2
