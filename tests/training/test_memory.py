"""Too little memory is one line that names the setting to lower, before anything big is made where that is known."""

import subprocess
import sys

import pytest
import torch

from fsg import FsgError, within_memory
from fsg.runtime.machine import memory_bytes
from fsg.training.config import Config
from fsg.training.memory import counting, require_memory
from fsg.training.networks.network import named_model

CPU = torch.device("cpu")
MODEL = named_model("resnet20", shape=[3, 32, 32], classes=10, activation_bits=1, first_last="float")


def out_on_cpu():
    torch.empty(2**44)


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


SHORTAGES = {
    "of torch": out_on_cpu,
    "of NumPy": raising(MemoryError("Unable to allocate 1 TiB")),
    "of CUDA": raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
    "of ONNX Runtime": raising(RuntimeError("std::bad_alloc")),
}


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_training_without_memory_says_what_to_lower_and_leaves_nothing(refused, monkeypatch, tmp_path, shortage):
    monkeypatch.setattr("fsg.training.loop.load_dataset", lambda *_, **__: SHORTAGES[shortage]())
    line = refused("train", "--out", tmp_path / "run")
    assert "is not enough for this: lower --batch-size" in line and ("GPU" in line) == (shortage == "of CUDA")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["eval", "export"])
@pytest.mark.parametrize("shortage", SHORTAGES)
def test_other_commands_without_memory_say_so(refused, monkeypatch, tmp_path, shortage, command):
    from fsg.training.config import save_config

    save_config(Config(), tmp_path / "config.toml")
    monkeypatch.setattr("fsg.training.run.read_checkpoint", lambda *_, **__: SHORTAGES[shortage]())
    line = refused(command, tmp_path)
    assert "is not enough for this: take smaller images or a smaller model" in line


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_summary_without_memory_says_so(refused, monkeypatch, shortage):
    monkeypatch.setattr("fsg.training.networks.summary.summarize", lambda *_: SHORTAGES[shortage]())
    assert "memory is not enough for this: take smaller images" in refused("summary", "resnet20")


def test_a_child_of_bench_train_without_memory_says_so(refused, monkeypatch):
    code = "from fsg.training.experiments import bench_step as b; import torch, sys"
    code += "; b._serve = lambda: torch.empty(2**44); sys.exit(b._main())"
    monkeypatch.setattr("fsg.training.experiments.bench_step.CHILD", [sys.executable, "-c", code])
    line = refused("bench-train", "--methods", "ste")
    assert "fsg: error: ste: memory is not enough for this: lower --batch-size" in line


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), FsgError("no such file"), ValueError("no")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=str(error)), within_memory("lower it"):
        raise error


def test_what_a_reader_took_for_damage_is_told_as_what_it_is():
    with pytest.raises(FsgError, match="memory is not enough for this: lower it"), within_memory("lower it"):
        try:
            out_on_cpu()
        except RuntimeError as error:
            raise FsgError("checkpoint.pt does not fit") from error


def test_values_that_layers_keep_are_counted():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 2))
    with counting(model) as values, torch.no_grad():
        model(torch.zeros(2, 3, 8, 8))
    assert values == {"0": 3 * 8 * 8, "3": 288}
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize(
    ("settings", "values", "batch", "option"),
    [
        ({}, 400_000, 2**20, "--batch-size"),
        ({"method": "ste"}, 400_000, 2**20, "--batch-size"),
        ({"history": 1000}, 1000, 64, "--history"),
        ({"hidden": 4096}, 1000, 64, "--hidden"),
    ],
)
def test_absurd_settings_are_refused(monkeypatch, settings, values, batch, option):
    monkeypatch.setattr("fsg.training.memory.memory_bytes", lambda: 10**9)
    with pytest.raises(FsgError, match=f"GB of memory, and there are 1: lower {option}, or take smaller images"):
        require_memory(Config(**settings), MODEL, values, batch, CPU)
    require_memory(
        Config(**{name: value for name, value in settings.items() if name == "method"}), MODEL, values, 64, CPU
    )


def test_absurd_batches_are_refused_before_they_are_made(refused, monkeypatch, digits_npz, tmp_path):
    assert "lower --batch-size" in refused("bench-train", "--methods", "ste", "--batch-size", 2**20)
    # More than there are images costs nothing.
    monkeypatch.setattr("fsg.training.loop.Training.run", raising(FsgError("got so far")))
    command = ["train", "--dataset", f"npz:{digits_npz}", "--out", tmp_path / "run", "--batch-size", 2**20]
    assert "got so far" in refused(*command)


def test_the_memory_of_a_process_is_what_its_limit_leaves():
    code = "import resource; from fsg.runtime.machine import memory_bytes; print(memory_bytes())"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); "
    assert subprocess.check_output([sys.executable, "-c", limit + code], text=True) == f"{2**29}\n"
    assert 2**29 < memory_bytes() < 2**50
