"""Several processes take the steps of one: real processes, started by torchrun, exchanging by gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fsg import TEMPORARY, FsgError
from fsg.training.checkpoint import read_checkpoint
from fsg.training.distributed import Processes, joined
from fsg.training.run import open_run

pytestmark = pytest.mark.xdist_group("two processes")  # its tests share what two processes did together

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["train", "--epochs", "1", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments, cwd):
    """Runs two processes of a module or script to their end; returns the exit code and both outputs."""
    command = [*TORCHRUN, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    return result.returncode, result.stdout, result.stderr


def in_two_processes(folder, commands):
    """Carries out commands of fsg, by name, in two processes that are started once; returns the exit code and errors.

    The first command that fails is the last.
    """
    (folder / "commands.json").write_text(json.dumps(commands))
    code, _, err = torchrun(Path(__file__).with_name("two_processes.py"), cwd=folder)
    return code, err


def printed(folder, name):
    """What both processes printed during that command."""
    return "".join((folder / f"{name}.{rank}.out").read_text() for rank in (0, 1))


@pytest.fixture(scope="session")
def twenty_batches(digits_npz, tmp_path_factory):
    """Digits of 8x8 pixels: 160 to train on, 20 batches of 8, and 21 to test on, which two processes cannot halve."""
    with np.load(digits_npz) as archive:
        data = {name: array[: 160 if "train" in name else 21] for name, array in archive.items()}
    path = tmp_path_factory.mktemp("data") / "small.npz"
    small = {name: data[name][:, :, ::2, ::2] for name in ("x_train", "x_test")}
    np.savez(path, **{**data, **small, "class_names": np.array([str(i) for i in range(10)])})
    return path


def flat(content, path=""):
    """The tensors and numbers in nested containers, as float64 tensors by their paths."""
    if isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {key: value for name, child in items for key, value in flat(child, f"{path}/{name}").items()}
    return {path: torch.as_tensor(content).double()} if isinstance(content, torch.Tensor | float | int) else {}


def twenty_steps(dataset, method):
    """The arguments of a run that two processes should carry out as one does."""
    settings = ["--dataset", f"npz:{dataset}", "--batch-size", "8", "--precision", "float64", "--method", method]
    return [*TRAIN, *settings, "--recalibrate", "40"]


def two_epochs(dataset):
    settings = ["--dataset", f"npz:{dataset}", "--batch-size", "8", "--method", "ste", "--precision", "float64"]
    return ["train", *settings, "--schedule", "constant", "--device", "cpu", "--epochs", "2"]


@pytest.fixture(scope="module")
def together(twenty_batches, tmp_path_factory):
    """A folder with the run "ste" that two processes made; exit code and errors of a command without data after it."""
    folder = tmp_path_factory.mktemp("together")
    commands = {
        "ste": [*twenty_steps(twenty_batches, "ste"), "--out", "ste"],
        "nothing": [*TRAIN, "--dataset", "npz:nothing.npz"],
    }
    code, err = in_two_processes(folder, commands)
    return folder, code, err


@pytest.fixture(scope="module")
def long_together(twenty_batches, tmp_path_factory):
    """A folder with the runs "fsg", "whole" of two epochs, and "parts", which stopped after its first."""
    folder = tmp_path_factory.mktemp("together")
    commands = {
        "fsg": [*twenty_steps(twenty_batches, "fsg"), "--out", "fsg"],
        "whole": [*two_epochs(twenty_batches), "--out", "whole"],
        "parts": [*two_epochs(twenty_batches), "--max-minutes", "1e-6", "--out", "parts"],
    }
    code, err = in_two_processes(folder, commands)
    assert code == 0, err
    return (folder,)


def test_batch_norm_of_the_whole_batch_and_exchanges(together):
    """two_processes.py checks them before anything else."""
    folder, _, err = together
    assert (folder / "checks.0.out").exists() and (folder / "checks.1.out").exists(), err


def test_data_that_one_process_misses_are_one_line_and_end_both(together):
    """As test_bad_input below, but among the commands of a start that serves more checks."""
    folder, code, err = together
    assert code != 0
    assert err.count("fsg: error: ") == 1 and "nothing.npz: cannot be read" in err, err
    assert not list(folder.glob("runs/*/*"))


@pytest.mark.parametrize("method", ["ste", pytest.param("fsg", marks=pytest.mark.slow)])
def test_two_processes_take_the_same_twenty_steps_as_one(fsg, request, twenty_batches, tmp_path, method):
    folder, *_ = request.getfixturevalue("together" if method == "ste" else "long_together")
    one_folder, two_folder = tmp_path / "one", folder / method
    code, _, err = fsg(*twenty_steps(twenty_batches, method), "--threads", "1", "--out", one_folder)
    assert code == 0, err
    text = printed(folder, method)
    assert text.count("test accuracy") == 2 and text.count("next: fsg export") == 1
    one, two = (read_checkpoint(folder) for folder in (one_folder, two_folder))
    assert one["steps"] == two["steps"] == 20
    for part in ("model", "rule", "rows"):
        expected, found = (flat(content[part]) for content in (one, two))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            # Adam turns a hypernetwork's gradient near zero, and the rounding in it, into a step of ordinary size.
            close = 1e-4 if name.startswith(("/slow", "/fast", "/meta_optimizer")) else 1e-6
            if "seconds" not in name:
                torch.testing.assert_close(
                    found[name], tensor, rtol=close, atol=close, msg=lambda text, n=name: n + text
                )
    trained = open_run(two_folder).model
    assert sorted(path.name for path in two_folder.iterdir()) == sorted(path.name for path in one_folder.iterdir())
    assert type(trained.bn1) is nn.BatchNorm2d


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "7"], "batch size 7 cannot be shared by 2 processes: choose a multiple of 2"),
        (["--dataset", "npz:nothing.npz"], "nothing.npz: cannot be read"),
        (["--method", "magic"], "'magic' is not one of"),
        (["--compile"], "--compile is for one process"),
        (["--batch-size", "8", "--lr", "1e30", "--method", "ste"], "the loss became nan in epoch 1"),
    ],
)
def test_bad_input_is_one_line_of_one_process_and_leaves_nothing(twenty_batches, tmp_path, arguments, message):
    code, _, err = torchrun("-m", "fsg", *TRAIN, "--dataset", f"npz:{twenty_batches}", *arguments, cwd=tmp_path)
    assert code != 0
    assert err.count("fsg: error: ") == 1 and message in err, err
    assert not list(tmp_path.glob("runs/*/*"))


def worker_of(process):
    """The process ids of torchrun's workers."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["interrupt all", "kill one"])
def test_an_end_of_any_process_ends_all_with_one_message(digits_npz, tmp_path, stop):
    settings = [
        "--dataset",
        f"npz:{digits_npz}",
        "--epochs",
        "50",
        "--method",
        "ste",
        "--device",
        "cpu",
        "--out",
        "run",
    ]
    with open(tmp_path / "out", "w+") as output:
        command = [*TORCHRUN, "-m", "fsg", "train", *settings]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "run/metrics.csv").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.3)
            if stop == "interrupt all":
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
            else:
                os.kill(worker_of(process)[1], signal.SIGKILL)
            assert process.wait(60) != 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        text = output.read()
    expected = "interrupted; continue with" if stop == "interrupt all" else "fsg: error: "
    assert text.count("fsg: error: ") + text.count("interrupted;") == 1 and text.count(expected) == 1, text
    epochs = read_checkpoint(tmp_path / "run")["epoch"]
    assert 1 <= epochs < 50 and not (tmp_path / "run/summary.json").exists()
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == epochs + 1
    assert not list((tmp_path / "run").glob(f"{TEMPORARY}*"))


@pytest.mark.slow
def test_a_run_in_two_processes_resumes(long_together, tmp_path):
    (folder,) = long_together
    assert "stopped after epoch 1 of 2" in printed(folder, "parts") and not (folder / "parts/summary.json").exists()
    # Not in `folder`, where `-m` would take the run "fsg" for the package.
    command = ("-m", "fsg", "train", "--resume", folder / "parts", "--max-minutes", "0")
    code, _, err = torchrun(*command, cwd=tmp_path)
    assert code == 0, err
    whole, parts = (json.loads((folder / name / "summary.json").read_text()) for name in ("whole", "parts"))
    assert parts["epochs"] == 2 and parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-9)


def test_alone_nothing_is_exchanged():
    tensors = [torch.ones(3)]
    with joined(torch.device("cpu"), 7) as processes:
        processes.average(tensors)
        assert processes == Processes(0, 1) and processes.part(7) == slice(0, 7) and processes.first
    assert tensors[0].tolist() == [1, 1, 1]


def test_parts_cover_everything_once():
    for size in (0, 1, 7, 8):
        parts = [list(range(size))[Processes(rank, 3).part(size)] for rank in range(3)]
        assert [item for part in parts for item in part] == list(range(size))


def test_a_process_without_a_device_is_refused(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(FsgError, match="fewer CUDA devices \\(1\\) than processes"), joined(torch.device("cuda"), 8):
        pass
