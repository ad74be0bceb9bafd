"""Data sets by their specs, their statistics, and what reading them needs to be installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_files import make_fashion, make_folder, pictures, refusal, save_npz

from fsg import FsgError
from fsg.training.data import load as data
from fsg.training.data.load import check_spec, load_dataset
from fsg.training.data.sets import resized, smaller

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


# --- statistics, batches, augmentation --------------------------------------------------------------------


def test_statistics_span_many_steps_and_never_give_a_zero_std() -> None:
    images = pictures(2500, 2, 3, 3)
    images[:, 0] = 51
    images[2000:, 1] //= 4
    mean, std = data.channel_statistics(images)
    assert mean[0] == 0.2 and std[0] == 0.001
    assert mean[1] == pytest.approx((images[:, 1] / 255).mean(), abs=5.1e-5)
    assert std[1] == pytest.approx((images[:, 1] / 255).std(), abs=5.1e-5)


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
    cures, train = [line.partition("pip install ")[2] for line in lines[1:]], "'fsg[train]'"
    assert cures == [train, "pillow", train, train]


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


def test_a_smaller_data_set_has_all_classes_alike_and_is_always_the_same():
    data = load_dataset("digits")
    few = smaller(data, 500)
    shares = np.bincount(few.y_train) / np.bincount(data.y_train)
    assert len(few.x_train) == 500 and np.ptp(shares) < 0.01
    np.testing.assert_array_equal(few.x_train, smaller(data, 500).x_train)
    more = smaller(data, 501)
    assert len(more.y_train) == 501 and set(map(bytes, few.x_train)) < set(map(bytes, more.x_train))
    assert smaller(data, 0) is data
    with pytest.raises(FsgError, match="--train-images 2000 asks for more"):
        smaller(data, 2000)


def test_images_are_averaged_where_they_shrink():
    data = load_dataset("digits")
    small = resized(data, 16)
    assert small.shape == (3, 16, 16) and small.pad == data.pad // 2 and resized(data, 32) is data
    blocks = data.x_test.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5))
    assert np.abs(small.x_test - blocks).max() <= 1  # rounded for each axis
    assert resized(data, 40).x_train.shape[1:] == (3, 40, 40)
