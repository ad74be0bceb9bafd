"""What an installation without TensorFlow and LCE's converter exports, and how fast."""

import json
import subprocess
import sys
import time

import pytest
import zoo
from rich.console import Console

from fsg.export.formats.tflite.write import to_tflite
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts
from fsg.training.config import Config, save_config
from fsg.training.loop import train

WRITE_S = 5  # for Bi-Real ResNet-18: seconds of this process, whatever else the machine does; it takes a tenth of that

WITHOUT = """
import sys
from importlib.util import find_spec
for name in {blocked!r}:
    sys.modules[name] = None  # importing it raises ImportError
    assert find_spec(name) is None
"""
CONVERTER = ("tensorflow", "larq_compute_engine")
ONNX = ("onnx", "onnxruntime")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = Config(method="ste", dataset="digits", epochs=1, batch_size=64, device="cpu")
    save_config(config, folder / "config.toml")
    train(config, folder, Console(quiet=True))
    return folder


def in_small_installation(program, *arguments, blocked=CONVERTER):
    command = [sys.executable, "-c", WITHOUT.format(blocked=blocked) + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("options", [["--writer", "direct"], ["--verify", "deep"]], ids=" ".join)
def test_export_needs_no_tensorflow(options, run_folder, tmp_path):
    """Nor onnx for a .tflite; `--writer auto` says in report.json that it took the direct one."""
    program = "from fsg.cli import main\nmain()"
    arguments = ["export", run_folder, "--format", "tflite", "--out", tmp_path, *options]
    result = in_small_installation(program, *arguments, blocked=(*CONVERTER, *ONNX))
    assert result.returncode == 0, result.stderr
    (artefact,) = json.loads((tmp_path / "report.json").read_text())["artefacts"]
    assert artefact["writer"] == "direct" and artefact["ops"]["LceBconv2d"] == 18
    assert artefact["verify"]["top1_agreement"] >= 0.97
    assert ("values_compared" in artefact["verify"]) == ("deep" in options)
    assert open_model(tmp_path / "model.tflite").metadata["class_names"] == list("0123456789")


def test_lces_converter_says_what_it_needs(run_folder, tmp_path):
    program = "from fsg.cli import main\nmain()"
    result = in_small_installation(program, "export", run_folder, "--writer", "lce", "--out", tmp_path / "new")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "needs the package larq_compute_engine: pip install 'fsg[lce]'" in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_graph_is_written_without_tensorflow():
    program = """
import torch
from torch import nn
from fsg.export.formats.tflite.write import to_tflite
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.training.layers import BinaryActivation, BinaryConv2d
graph = simplify(trace(nn.Sequential(BinaryActivation(), BinaryConv2d(8, 8, 3)), (8, 6, 6)))
assert to_tflite(graph, writer="direct") == to_tflite(graph)
assert to_tflite(graph)[1] == "direct"
"""
    result = in_small_installation(program)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_writing_a_residual_network_takes_seconds():
    name = "Bi-Real ResNet-18"
    graph = simplify(trace(zoo.trained(name), zoo.ZOO[name][1]))
    start = time.process_time()
    content, _ = to_tflite(graph, writer="direct")
    assert time.process_time() - start < WRITE_S
    assert op_counts(content)["LceBconv2d"] == zoo.ZOO[name][2]
