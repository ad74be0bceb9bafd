"""Models on an emulated ARM processor, and the library that runs them there."""

import subprocess
from dataclasses import replace

import lce
import numpy as np
import pytest
import records
import torch
from lce import Conv
from torch import nn

from fsg import FsgError
from fsg.export.pipeline import export_model
from fsg.runtime.boards.cores import cores
from fsg.runtime.boards.litert import runtime_library
from fsg.runtime.measure import emulate as room
from fsg.runtime.measure.emulate import emulate, why_not
from fsg.runtime.measure.emulated_ops import REMAINDER, last_inference
from fsg.runtime.measure.trace import read_trace
from fsg.runtime.model.evaluate import normalize
from fsg.training.layers import BinaryConv2d

needs_emulator = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def model(tmp_path):
    """A binary convolution with a shortcut, and its sums over the image as scores."""
    rng = np.random.default_rng(2)
    graph = lce.Graph()
    source = graph.tensor((1, 12, 12, 40))
    constants = rng.standard_normal((2, 40)).astype(np.float32)
    conv = graph.conv(graph.quantize(source), Conv(rng.choice([-1, 1], (40, 3, 3, 40)), padding=0), *constants)
    output = graph.builtin("ADD", [conv, source], (1, 12, 12, 40), fusedActivationFunction=0)
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.build([source], [output]))
    return path


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "kernels"), [("cortex-a53", "neon-a53"), ("cortex-a72", "neon-a72")])
def test_a_model_without_float_layers_has_the_bits_of_this_machine(model, cpu, kernels):
    record = emulate(model, cpu=cpu)
    assert (record["kind"], record["cpu"], record["kernels"]) == ("emulated", cpu, kernels)
    assert record["bit_exact"] and record["differing"] == 0
    assert record["host_difference"] == 0 and record["host_same_top1"] == 1
    assert 12 * 12 * 40 * 40 * 9 / 128 < record["instructions"] < 12 * 12 * 40 * 40 * 9
    assert not [name for name in record if "ms" in name or "us" in name.split("_") or "latency" in name]


@needs_emulator
def test_a_profile_accounts_for_every_instruction(tmp_path):
    path = records.mixed_file(tmp_path / "model.tflite")
    record = emulate(path, cpu="cortex-a72", profile=True)
    records.validate([{**record, "variant": "binary"}])
    ops = record["ops"]
    names = ["PAD + CONV_2D 3x3 -> 8x8x64", "CONV_2D 1x1 -> 8x8x64", "LceQuantize 8x8x64"]
    assert [op["name"] for op in ops[:3]] == names and ops[3]["name"].startswith("LceBconv2d 8x8x64 -> 64, 3x3")
    assert [op["name"] for op in ops[4:-1]] == ["CONV_2D 1x1 -> 8x8x64", "MAX_POOL_2D 8x8 -> 1x1x64"]
    assert ops[-1]["name"] == REMAINDER and ops[-1]["instructions"] < 0.02 * record["instructions"]
    assert sum(op["instructions"] for op in ops) == pytest.approx(record["instructions"], rel=0.02)
    assert ops[3]["binary_macs"] == 64**3 * 9 and ops[1]["float_macs"] == 64**3
    # Four products of floats take an instruction at least, 128 of signs three.
    assert ops[1]["instructions"] > 64**3 / 4 and ops[3]["instructions"] > 64**3 * 9 / 128 * 3
    assert ops[3]["instructions"] < 2 * ops[1]["instructions"]
    for name in ("share", "time_share"):
        assert sum(op[name] for op in ops) == pytest.approx(1, abs=1e-3)
    assert sum(op["cycles"] for op in ops) == pytest.approx(record["cycles"], rel=1e-3)


def test_a_clock_that_others_read_too_is_no_mark(tmp_path):
    file = tmp_path / "trace"
    file.write_text("b 0 1000 d503201f\nx 0 3\n" + "m\n" * 11)
    facts = {"ops": [{"name": "LceQuantize", "kind": "fsg"}], "partitions": [0]}
    with pytest.raises(FsgError, match=r"m.tflite: no emulated profile: the clock was read 11 times, not 10"):
        last_inference("m.tflite", facts, read_trace(file))


@needs_emulator
@pytest.mark.slow
def test_what_the_emulated_program_refuses_is_one_line(model, tmp_path, monkeypatch):
    core = replace(cores()["cortex-a72"], emulated_as="cortex-a0")
    monkeypatch.setattr(room, "cores", lambda: {"cortex-a72": core})
    with pytest.raises(FsgError, match=r"model.tflite: on an emulated aarch64: .*cortex-a0"):
        emulate(model)


def test_without_an_emulator(model, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install qemu-user" in str(why_not())
    with pytest.raises(FsgError, match=r"not emulated: there is no qemu-aarch64"):
        emulate(model)


def test_libraries_are_checked(tmp_path):
    with pytest.raises(FsgError, match="No such file"):
        runtime_library("aarch64", tmp_path / "missing.so")
    other = tmp_path / "other.so"
    other.write_bytes(b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little"))
    with pytest.raises(FsgError, match="is no library for aarch64"):
        runtime_library("aarch64", other)
    assert runtime_library("x86_64", other) == other
    with pytest.raises(FsgError, match="--runtime-lib PATH"):
        runtime_library("x86_64")


def test_an_offline_host_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "no network\n"))
    with pytest.raises(FsgError, match=r"cannot be fetched \(no network\); give it with --runtime-lib PATH"):
        runtime_library("aarch64")
    assert not list(tmp_path.rglob("*.so"))


@needs_emulator
@pytest.mark.parametrize("how", [{"input": "uint8"}, {"int8": "layers", "io": "int8"}, {"batch": 3}], ids=str)
def test_files_that_take_integers_or_several_images(tmp_path, how):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), BinaryConv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 5)).eval()
    images = normalize(np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), np.uint8), [0.5] * 3, [0.25] * 3)
    about = {"mean": [0.5] * 3, "std": [0.25] * 3}
    export_model(network, (3, 8, 8), tmp_path, ("tflite",), images=images, metadata=about, **how)
    record = emulate(tmp_path / "model.tflite", cpu="cortex-a76")
    assert record["bit_exact"] and record["host_difference"] < 0.02 and record["host_same_top1"] == 1
    assert record["batch"] == how.get("batch", 1)
