"""Folders without test images: the same ones are left out of the training wherever, and whenever, they are read."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_files import make_folder, refusal
from PIL import Image

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import DataOptions, Dataset, options_of_model
from fsg.training.folder import read_summary

SHARE = DataOptions(split=0.2)


def draw(folder: Path, first: int, count: int) -> None:
    """Images that are all different: the number is in the pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (8, 8), (number % 256, number // 256, len(folder.name))).save(folder / f"{number:04}.png")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    draw(tmp_path / "pets" / "cat", 0, 30)
    draw(tmp_path / "pets" / "horse", 100, 11)
    draw(tmp_path / "pets" / "yak", 200, 2)
    return tmp_path / "pets"


def numbers(images: np.ndarray) -> set[int]:
    return set((images[:, 0, 0, 0] + 256 * images[:, 1, 0, 0].astype(int)).tolist())


def load(folder: Path, options: DataOptions = SHARE, **how: object) -> Dataset:
    return load_dataset(f"folder:{folder}", options=options, **how)  # type: ignore[arg-type]


def test_every_class_gives_its_share_and_no_image_is_in_both(flat: Path) -> None:
    data = load(flat)
    assert data.class_names == ("cat", "horse", "yak")
    assert np.bincount(data.y_test).tolist() == [6, 2, 1] and np.bincount(data.y_train).tolist() == [24, 9, 1]
    assert not numbers(data.x_train) & numbers(data.x_test)
    assert numbers(data.x_train) | numbers(data.x_test) == {*range(30), *range(100, 111), 200, 201}
    assert numbers(data.x_test) != {*range(6), 100, 101, 200}


def test_the_split_is_the_same_elsewhere_and_for_the_trained_model(flat: Path, tmp_path: Path) -> None:
    data = load(flat)
    shutil.move(flat, tmp_path / "moved")
    known = options_of_model({"split": dict(data.split)})
    for again in (load(tmp_path / "moved"), load(tmp_path / "moved", known), load(tmp_path / "moved", known)):
        assert np.array_equal(again.x_test, data.x_test) and np.array_equal(again.x_train, data.x_train)
    for options in (SHARE, known):
        alone = load(tmp_path / "moved", options, test_only=True)
        assert np.array_equal(alone.x_test, data.x_test) and not len(alone.x_train)
    assert np.array_equal(load(flat, known, data_dir=tmp_path / "moved", test_only=True).x_test, data.x_test)


def test_images_that_were_added_make_no_test_image_of_one_that_was_trained_on(flat: Path) -> None:
    data = load(flat)
    draw(flat / "cat", 30, 40)
    draw(flat / "horse", 111, 40)
    later = load(flat, DataOptions(data.split), test_only=True)
    assert numbers(later.x_test) >= numbers(data.x_test) and len(later.x_test) > len(data.x_test)
    assert not numbers(later.x_test) & numbers(data.x_train)
    assert numbers(load(flat).x_test) & numbers(data.x_train)  # which a new split would not keep


def test_a_folder_without_test_images_wants_a_split(flat: Path) -> None:
    with refusal(f"{flat}/test: no such folder; give --split 0.2 to test on a fifth of the images of each class in"):
        load(flat, DataOptions())
    with refusal(f"{flat}/test: no such folder; put images of every class that the network was trained without into"):
        load(flat, DataOptions(), test_only=True)
    (flat / "yak" / "0200.png").unlink()
    with refusal(f"{flat}/yak: has one image, but --split needs two"):
        load(flat)
    with refusal(f"{flat}/yak: has none of the images that --split left out"):
        load(flat, DataOptions({"cat": 1 << 47, "horse": 1 << 48}), test_only=True)


def test_a_training_folder_alone_is_split_and_one_with_test_images_is_not(flat: Path, tmp_path: Path) -> None:
    data = load(flat)
    (tmp_path / "both").mkdir()
    shutil.move(flat, tmp_path / "both" / "train")
    assert np.array_equal(load(tmp_path / "both").x_test, data.x_test)
    make_folder(tmp_path / "whole")
    with refusal(f"{tmp_path}/whole/test: is there, so nothing is to be split: leave --split away"):
        load(tmp_path / "whole")
    assert len(load(tmp_path / "whole", DataOptions(data.split), test_only=True).x_test) == 4


def test_split_is_for_folders() -> None:
    with pytest.raises(FsgError, match="--split is for folder:PATH, not digits: leave it away"):
        Config(dataset="digits", split=0.2)
    assert Config(dataset="folder:a", split=0.2).split == 0.2
    with pytest.raises(FsgError, match="metadata are damaged: split is \\[1\\]; export it anew"):
        options_of_model({"split": [1]})


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_are_test_images_where_there_are_no_others(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path)
    data = load(tmp_path, DataOptions())
    (tmp_path / "test").rename(tmp_path / name)
    for test_only in (False, True):
        found = load(tmp_path, DataOptions(), test_only=test_only)
        assert np.array_equal(found.x_test, data.x_test)
    assert f"{name}/ taken for the test images, as there is no test/" in found.notes
    make_folder(tmp_path / "other")
    shutil.move(tmp_path / "other" / "test", tmp_path / "test")
    assert not np.array_equal(load(tmp_path, DataOptions()).x_test, data.x_test)


def test_training_export_and_eval_test_on_the_same_images(fsg, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 140, (16, 16, 3)) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pets" / name / f"{number}.png")
    run, spec = tmp_path / "run", f"folder:{tmp_path / 'pets'}"
    common = ["--model", "resnet8", "--method", "ste", "--batch-size", "16", "--epochs", "1", "--threads", "1"]
    code, out, err = fsg("train", "--dataset", spec, "--split", "0.25", *common, "--out", run)
    assert code == 0 and "20 test images" in out, err
    code, _, err = fsg("export", run, "--format", "tflite", "--format", "packed")
    assert code == 0, err
    summary = read_summary(run)
    assert summary
    accuracy = f"accuracy {summary['test_accuracy']:.2%} on 20 images"
    for target in (run, run / "export" / "model.tflite", run / "export" / "model.fsg"):
        for more in ((), ("--dataset", spec)):
            code, out, err = fsg("eval", target, *more)
            assert code == 0 and accuracy in out, err
    code, _, err = fsg(
        "export", run / "export" / "model.fsg", "--format", "tflite", "--dataset", spec, "--out", tmp_path / "again"
    )
    assert code == 0, err
    assert fsg("train", "--resume", run, "--epochs", "2")[0] == 0
