"""Several processes take the steps of one: real processes, started by torchrun, exchanging by gloo."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from fsg import FsgError
from fsg.training.checkpoint import read_checkpoint
from fsg.training.distributed import Processes, joined
from fsg.training.run import open_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["train", "--epochs", "1", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments, cwd):
    """Runs two processes of a module or script to their end; returns the exit code and both outputs."""
    command = [*TORCHRUN, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    return result.returncode, result.stdout, result.stderr


def alone(*arguments, cwd):
    subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, check=True, capture_output=True, env=ENVIRONMENT)


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


@pytest.mark.parametrize("method", ["ste", pytest.param("fsg", marks=pytest.mark.slow)])
def test_two_processes_take_the_same_twenty_steps_as_one(twenty_batches, tmp_path, method):
    settings = ["--dataset", f"npz:{twenty_batches}", "--batch-size", "8", "--precision", "float64", "--method", method]
    alone("-m", "fsg", *TRAIN, *settings, "--out", "one", cwd=tmp_path)
    code, out, err = torchrun("-m", "fsg", *TRAIN, *settings, "--out", "two", cwd=tmp_path)
    assert code == 0, err
    assert out.count("test accuracy") == 2 and out.count("next: fsg export") == 1
    one, two = (read_checkpoint(tmp_path / name) for name in ("one", "two"))
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
    trained = open_run(tmp_path / "two").model
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    assert type(trained.bn1) is nn.BatchNorm2d


WHOLE_BATCH_NORM = """
import torch
from torch import nn
from fsg.training.distributed import joined, use_whole_batch_norm

with joined(torch.device("cpu"), 8) as processes:
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        shape = [(8, 5), (8, 3, 7), (8, 4, 3, 2)][seed % 3]
        x, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 2 for _ in range(2))
        kind = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d][seed % 3]
        settings = {"affine": seed % 4 != 3, "momentum": None if seed % 2 else 0.3}
        whole, parts = (nn.Sequential(kind(shape[1], **settings)).double() for _ in range(2))
        for model in (whole, parts):
            for number, parameter in enumerate(model.parameters()):
                nn.init.uniform_(parameter, 0.5, 2, generator=torch.Generator().manual_seed(number))
        use_whole_batch_norm(parts, processes)
        part = processes.part(8)
        mine = x[part].clone().requires_grad_()
        x.requires_grad_()
        for _ in range(2):
            expected, found = whole(x), parts(mine)
            torch.testing.assert_close(found, expected[part])
        expected.backward(upstream)
        found.backward(upstream[part])
        torch.testing.assert_close(mine.grad, x.grad[part])
        for a, b in zip(whole.parameters(), parts.parameters()):
            torch.testing.assert_close(processes.total(b.grad), a.grad)
        assert whole.state_dict().keys() == parts.state_dict().keys()
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[name], value)
        torch.testing.assert_close(parts.eval()(mine), whole.eval()(x)[part])

        values = [torch.full((2, 3), float(processes.rank)), torch.arange(4.0) * processes.rank]
        processes.average(values)
        assert (values[0] == 0.5).all() and values[1].tolist() == [0, 0.5, 1, 1.5]
        state = {"a": [torch.full((2, 3), processes.rank).T], "b": (torch.tensor(float(processes.rank)), "text")}
        processes.equalize(state)
        assert state["a"][0].sum() == 0 and state["b"][0] == 0
"""


def test_batch_norm_of_the_whole_batch_and_exchanges(tmp_path):
    (tmp_path / "script.py").write_text(WHOLE_BATCH_NORM)
    code, _, err = torchrun("script.py", cwd=tmp_path)
    assert code == 0, err


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
    assert not list((tmp_path / "run").glob("*.tmp"))


@pytest.mark.slow
def test_a_run_in_two_processes_resumes(twenty_batches, tmp_path):
    settings = ["--dataset", f"npz:{twenty_batches}", "--batch-size", "8", "--method", "ste", "--precision", "float64"]
    settings += ["--schedule", "constant"]
    train = ["-m", "fsg", "train", *settings, "--device", "cpu"]
    assert torchrun(*train, "--epochs", "2", "--out", "whole", cwd=tmp_path)[0] == 0
    assert torchrun(*train, "--epochs", "1", "--out", "parts", cwd=tmp_path)[0] == 0
    config = tmp_path / "parts" / "config.toml"
    config.write_text(config.read_text().replace("epochs = 1", "epochs = 2", 1))
    code, _, err = torchrun("-m", "fsg", "train", "--resume", "parts", cwd=tmp_path)
    assert code == 0, err
    whole, parts = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts"))
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
