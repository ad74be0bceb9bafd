"""Data and runs that were moved are found where the user says, by every command."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from dataset_files import make_folder, refusal

from fsg.training.config import load_config
from fsg.training.data.load import load_dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_npz):
    """A run on a copy of `tiny_npz`: the folder that holds run/ and data/tiny.npz."""
    folder = tmp_path_factory.mktemp("moved")
    (folder / "data").mkdir()
    shutil.copy(tiny_npz, folder / "data" / "tiny.npz")
    settings = ["--dataset", "npz:data/tiny.npz", "--method", "ste", "--epochs", "1", "--batch-size", "16"]
    command = [sys.executable, "-m", "fsg", "train", *settings, "--out", "run"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of the run at moved/net, and its data at elsewhere/tiny.npz; where it was trained nothing is left."""
    shutil.copytree(trained / "run", tmp_path / "moved" / "net")
    shutil.copytree(trained / "data", tmp_path / "elsewhere")
    config = tmp_path / "moved" / "net" / "config.toml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path / "gone")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


NEW_PLACES = [
    ["--data-dir", "elsewhere"],
    ["--data-dir", "elsewhere/tiny.npz"],
    ["--dataset", "npz:elsewhere/tiny.npz"],
]


@pytest.mark.parametrize("place", NEW_PLACES)
def test_moved_data_are_found_by_every_command(fsg, here, place):
    code, out, err = fsg("eval", "moved/net", "--json", *place)
    assert code == 0 and json.loads(out)["samples"] == 40, err
    expected = json.loads(out)["accuracy"]
    code, _, err = fsg("export", "moved/net", "--format", "onnx", *place)
    assert code == 0, err
    report = json.loads((here / "moved/net/export/report.json").read_text())
    given = place[1] if place[0] == "--dataset" else load_config(here / "moved/net/config.toml").dataset
    assert report["dataset"] == given and report["artefacts"][0]["verify"]["accuracy"] == expected
    code, out, err = fsg("eval", "moved/net/export/model.onnx", "--json", *place)
    assert code == 0 and json.loads(out)["accuracy"] == expected, err
    accuracy = place if place[0] == "--data-dir" else []
    spec = place[1] if not accuracy else f"npz:{here}/gone/data/tiny.npz"
    code, out, err = fsg("bench", "moved/net", "--runs", "1", "--accuracy", spec, *accuracy, "--json", "-")
    assert code == 0 and json.loads(out)[0]["accuracy"] == expected, err
    code, _, err = fsg("train", "--resume", "moved/net", "--epochs", "2", *place)
    assert code == 0, err
    # From now on the run knows where its data are.
    assert fsg("eval", "moved/net")[0] == 0 and fsg("export", "moved/net", "--format", "onnx")[0] == 0


def test_missing_data_name_the_option(refused, here):
    where = f"{here}/gone/data/tiny.npz: cannot be read (No such file or directory)"
    remedy = "check the path, or say with --data-dir in which folder tiny.npz is now"
    for command in ("eval", "export"):
        line = refused(command, "moved/net")
        assert where in line and remedy in line
        line = refused(command, "moved/net", "--data-dir", "moved")
        assert f"{where}, and neither is it in moved; " in line and remedy in line
        assert "nowhere: no such folder" in refused(command, "moved/net", "--data-dir", "nowhere")
    assert not (here / "moved/net/export").exists()


def test_a_wrong_data_set_for_an_export_is_refused(refused, here):
    assert "digits: images are [3, 32, 32], the run was trained on [3, 8, 8]" in refused(
        "export", "moved/net", "--dataset", "digits"
    )
    assert "did you mean npz:x.npz?" in refused("export", "moved/net", "--dataset", "x.npz")


def test_a_moved_run_works_everywhere(fsg, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    assert fsg("export", "run", "--format", "onnx")[0] == 0
    shutil.move("run", tmp_path / "other name")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "other name"
    for command in (
        ("eval", run),
        ("eval", run / "export/model.onnx"),
        ("summary", run),
        ("bench", run, "--runs", "1"),
        ("report", run),
        ("compare", run, "--out", "compared"),
        ("train", "--resume", run, "--epochs", "2"),
        ("export", run, "--format", "onnx"),
    ):
        code, out, err = fsg(*command)
        assert code == 0 and "not the file" not in out + err and "trained on since" not in out + err, (command, err)
    assert (run / "report.html").exists() and not (tmp_path / "work" / "run").exists()


@pytest.mark.parametrize("own", [False, True])
def test_a_moved_folder_of_images_is_found(tmp_path, own):
    make_folder(tmp_path / "new" / "birds")
    moved_to = tmp_path / "new" / "birds" if own else tmp_path / "new"
    found = load_dataset(f"folder:{tmp_path}/old/birds", data_dir=moved_to)
    np.testing.assert_array_equal(found.x_test, load_dataset(f"folder:{tmp_path}/new/birds").x_test)
    with refusal(tmp_path / "old/birds", "no such folder", "--data-dir in which folder birds is now"):
        load_dataset(f"folder:{tmp_path}/old/birds")


def test_what_is_where_the_user_says_goes_before_what_is_where_it_was(tiny_npz, digits_npz, tmp_path):
    for name, source in (("old", tiny_npz), ("new", digits_npz), ("empty", None)):
        (tmp_path / name).mkdir()
        if source:
            shutil.copy(source, tmp_path / name / "data.npz")
    spec = f"npz:{tmp_path}/old/data.npz"
    sizes = {name: load_dataset(spec, data_dir=tmp_path / name).shape[1] for name in ("old", "new", "empty")}
    assert sizes == {"old": 8, "new": 16, "empty": 8}
