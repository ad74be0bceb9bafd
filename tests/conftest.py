"""Fixtures that all tests may use."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fsg import cli

if "PYTEST_XDIST_WORKER" in os.environ:  # one core each: small networks lose by waiting for threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported; see fsg.face.run_training
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it


@pytest.fixture(scope="session")
def golden():
    """Vectors in float64 made with the published FSG code (two-tiger/FSG); see training/methods/test_hypernet.py."""
    with np.load(Path(__file__).parent / "golden" / "fsg_golden.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def digits_npz(tmp_path_factory):
    """Real handwritten digits as a small npz data set: 256 training and 260 test images, 3x16x16."""
    from fsg.training.data.load import load_dataset

    data = load_dataset("digits")
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    small = {name: getattr(data, name)[..., ::2, ::2] for name in ("x_train", "x_test")}
    np.savez(
        path,
        x_train=small["x_train"][::5][:256],
        y_train=data.y_train[::5][:256],
        x_test=small["x_test"][:260],
        y_test=data.y_test[:260],
        class_names=np.array([f"digit {i}" for i in range(10)]),
    )
    return path


@pytest.fixture(scope="session")
def tiny_npz(digits_npz, tmp_path_factory):
    """48 training and 40 test digits of 3x8x8."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    with np.load(digits_npz) as archive:
        data = dict(archive)
    for part, count in (("train", 48), ("test", 40)):
        data[f"x_{part}"] = data[f"x_{part}"][:: len(data[f"x_{part}"]) // count][:count, :, ::2, ::2]
        data[f"y_{part}"] = data[f"y_{part}"][:: len(data[f"y_{part}"]) // count][:count]
    np.savez(path, **data)
    return path


@pytest.fixture
def earlier_run(tmp_path, monkeypatch):
    """The folder of a run that an earlier fsg wrote, with its network and data where its settings look for them."""
    shutil.copytree(Path(__file__).parent / "golden" / "before_rooms", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace("npz:/tmp/digits.npz", f"npz:{tmp_path / 'digits.npz'}"))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "run"


@pytest.fixture
def fsg(monkeypatch, capsys):
    """Runs a command in this process; returns its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fsg", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def refused(fsg):
    """Runs a command that must fail the polite way; returns its one line."""

    def run(*arguments):
        code, _, err = fsg(*arguments)
        assert code == 2
        assert err.startswith("fsg: error: ") and err.count("\n") == 1, err
        return err

    return run


@pytest.fixture(scope="session")
def clean_source(tmp_path_factory):
    """A copy of what is tracked, free of anything built."""
    root, source = Path(__file__).parents[1], tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        if (root / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    return source
