"""Machines without a home folder, names that are no UTF-8, terminals that know ASCII only: a line, or it works."""

import json
import os
import pwd
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from fsg.runtime.boards.litert import cache_folder
from fsg.training.config import Config
from fsg.training.data.load import load_dataset

ODD = os.fsdecode(b"odd\xff")
SHOWN = r"odd\udcff"


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """No HOME, and a user that the system does not know, as in a container; in an empty folder."""

    def unknown(_):
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "FSG_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [["--help"], ["env"], ["devices"], ["train", "--help"], ["devices", "rpi4"]])
def test_what_needs_no_home_works_without(fsg, homeless, tmp_path, command):
    code, out, _ = fsg(*command)
    assert code == 0 and out and not list(tmp_path.iterdir())


def test_training_and_exporting_need_no_home(fsg, homeless, tiny_npz, tmp_path):
    settings = ["--dataset", f"npz:{tiny_npz}", "--method", "ste", "--epochs", "1", "--batch-size", "16"]
    assert fsg("train", *settings, "--out", "run")[0] == 0
    assert fsg("export", "run", "--format", "onnx")[0] == 0
    assert fsg("eval", "run")[0] == 0 and fsg("bench", "run", "--runs", "1")[0] == 0 and fsg("report", "run")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_where_a_home_is_needed_the_line_says_what_to_give(refused, homeless, tmp_path):
    assert "no home folder to keep data sets in: give one with --data-dir or FSG_DATA" in refused(
        "train", "--dataset", "cifar10", "--out", "run"
    )
    assert "~/a.npz: there is no home folder for ~ here" in refused("train", "--dataset", "npz:~/a.npz", "--out", "run")
    assert "~/d: there is no home folder for ~ here" in refused("train", "--data-dir", "~/d", "--out", "run")
    assert "you can add your own to ~/.config/fsg/devices.toml" in refused("devices", "nothing")
    with pytest.raises(Exception, match="set HOME or XDG_CACHE_HOME, or give --runtime-lib"):
        cache_folder()
    assert not list(tmp_path.iterdir())


def test_an_unknown_user_s_home_is_one_line(refused):
    assert "~no-such-user/a.npz: there is no home folder" in refused("train", "--dataset", "npz:~no-such-user/a.npz")


def test_a_home_that_may_not_be_looked_into_is_no_error(fsg, monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.is_file", forbidden)
    assert fsg("devices", "rpi4")[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--out", ODD],
        ["train", "--dataset", f"npz:{ODD}.npz"],
        ["train", "--resume", ODD],
        ["export", ODD],
        ["eval", ODD],
        ["bench", f"{ODD}.onnx"],
        ["bench", "--json", ODD],
        ["report", ODD],
        ["summary", ODD],
        ["compare", ODD, "--out", "compared"],
        ["bench-train", "--json", ODD],
    ],
)
def test_a_name_that_is_no_utf8_is_one_line(refused, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    line = refused(*command)
    assert SHOWN in line and "the name is no UTF-8, which files here need; rename it" in line
    assert not list(tmp_path.iterdir())


def test_other_places_of_names_that_are_no_utf8(refused, monkeypatch, tmp_path, tiny_npz):
    odd = tmp_path / ODD
    odd.mkdir()
    shutil.copy(tiny_npz, odd / "a.npz")
    (tmp_path / "link.npz").symlink_to(odd / "a.npz")
    monkeypatch.chdir(tmp_path)
    assert f"{SHOWN}/a.npz: the name is no UTF-8" in refused("train", "--dataset", "npz:link.npz", "--out", "run")
    for part in ("train", "test"):
        for name in (ODD, "even"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / part / name / "0.png")
    with pytest.raises(Exception, match="the name is no UTF-8"):
        load_dataset(f"folder:{tmp_path / 'data'}")
    (tmp_path / "runs" / ODD).mkdir(parents=True)
    (tmp_path / "runs" / ODD / "config.toml").touch()
    assert "the name is no UTF-8" in refused("eval")
    monkeypatch.chdir(odd)
    assert f"{SHOWN}: the name is no UTF-8" in refused("train", "--out", "run")
    assert {path.name for path in tmp_path.iterdir()} == {ODD, "link.npz", "data", "runs"}


def test_a_removed_current_folder_is_one_line(refused, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the current folder was removed: go to another" in refused("devices")
    os.chdir(tmp_path)


def printed(folder, environment, *command):
    child = subprocess.run([sys.executable, "-m", "fsg", *command], cwd=folder, env=environment, capture_output=True)
    assert child.returncode == 0 and b"Error" not in child.stderr, child.stderr
    return child.stdout


@pytest.fixture(scope="module")
def in_ascii(tiny_npz, tmp_path_factory):
    """A folder with a run and its export, made by an fsg whose terminal knows ASCII only."""
    folder, ascii_only = tmp_path_factory.mktemp("ascii"), os.environ | {"PYTHONIOENCODING": "ascii"}
    settings = ["--dataset", f"npz:{tiny_npz}", "--method", "ste", "--epochs", "1", "--batch-size", "16"]
    assert printed(folder, ascii_only, "train", *settings, "--out", "run").isascii()
    assert printed(folder, ascii_only, "export", "run", "--format", "onnx").isascii()
    return folder


@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_terminals_that_know_ascii_only(in_ascii, locale):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))} | locale
    assert json.loads(printed(in_ascii, environment, "bench", "run", "--runs", "1", "--json", "-"))
    for command in (["bench", "run", "--runs", "1"], ["report", "run"], ["devices"], ["compare", "run", "--out", "c"]):
        text = printed(in_ascii, environment, *command)  # for LC_ALL=C alone Python takes UTF-8
        assert text and (text.isascii() or (len(locale) == 1 and "LC_ALL" in locale))


def test_a_port_in_a_host_s_name_is_told_apart(refused, tmp_path):
    model = tmp_path / "model.tflite"
    model.write_bytes(b"")
    line = refused("bench", model, "--device", "rpi4", "--host", "pi@board:2222")
    assert "--host pi@board:2222: ssh takes the port by itself: --host pi@board -p 2222" in line


@pytest.mark.parametrize(
    ("threads", "deterministic", "told"), [(64, False, True), (64, True, False), (2, False, False)]
)
def test_more_threads_than_cores_are_told(monkeypatch, threads, deterministic, told):
    from fsg.training.compute import threads_told

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    line = threads_told(Config(threads=threads, deterministic=deterministic))
    assert line == ("64 threads on 2 cores are slower than 2: --threads 2" if told else "")


def test_a_training_with_too_many_threads_says_so_once(fsg, monkeypatch, tiny_npz, tmp_path):
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    cores = len(os.sched_getaffinity(0))
    settings = ["--dataset", f"npz:{tiny_npz}", "--method", "ste", "--epochs", "1", "--batch-size", "16"]
    code, out, _ = fsg("train", *settings, "--out", tmp_path / "run", "--threads", 1024)
    assert code == 0 and out.count(f"1024 threads on {cores} cores are slower than {cores}: --threads {cores}") == 1
