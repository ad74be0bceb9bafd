"""Networks trained on integers are exported on the grids that they learnt."""

import io
import json
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.baseline import baseline
from fsg.export.check import exportable
from fsg.export.int8 import learned_layers
from fsg.export.pipeline import export_model, export_run
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace, values_of
from fsg.export.verify import signs_near_zero
from fsg.runtime.model.session import open_model
from fsg.training import loop
from fsg.training.checkpoint import read_checkpoint
from fsg.training.config import Config, save_config
from fsg.training.networks.int8 import choose_ranges, int8_aware
from fsg.training.networks.layers import FakeQuantize
from fsg.training.networks.resnet import build_model
from fsg.training.run import open_run

FORMATS = ("tflite", "onnx", "packed")


def images(count=16, size=16):
    return np.random.default_rng(0).standard_normal((count, 3, size, size), np.float32)


def settled(model, shape=(3, 16, 16)):
    """With ranges, and statistics of batch norms, as random images have them."""
    model = int8_aware(model)
    x = torch.from_numpy(images(size=shape[1]))
    choose_ranges(model, x)
    with torch.no_grad():
        for _ in range(30):
            model.train()(x)
    return model.eval()


def trunk():
    """Depthwise convolutions, a max pool and dense layers on integers."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)),
        *(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32), nn.BatchNorm1d(32), nn.Linear(32, 10)),
    )


@pytest.mark.parametrize("bits", [1, 32])
def test_the_graph_has_the_learnt_grids(bits):
    torch.manual_seed(0)
    model = settled(build_model("resnet8", classes=10, channels=3, activation_bits=bits))
    read = trace(model, (3, 16, 16))
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantize)}
    found = {node.name: (node.step, node.zero) for node in read.nodes if isinstance(node, g.Quantize)}
    assert found == {name: (module.step, module.zero) for name, module in quantizers.items()} and len(found) == 6
    whole = learned_layers(simplify(read))
    assert {node.name for node in whole.nodes if isinstance(node, g.Quantize)} == {n for n in found if "reads" in n}
    assert {node.name for node in whole.nodes if isinstance(node, g.Int8Conv)} == {n for n in found if "gives" in n}
    values, meant = values_of(model, images(4)), run_graph(whole, images(4))
    steps = np.abs(values["conv1_gives"] - meant["conv1_gives"]) / whole["conv1_gives"].step
    assert steps.max() < 1.001 and (steps > 0.5).mean() < 0.01 and len(np.unique(meant["conv1_gives"])) > 50


def test_a_grid_that_does_not_begin_at_0_takes_no_relus_place():
    model = settled(trunk())
    assert learned_layers(simplify(trace(model, (3, 16, 16)))).count(g.Elementwise) == 0
    model.get_submodule("0_gives").offset.data.fill_(-100)
    assert learned_layers(simplify(trace(model, (3, 16, 16)))).count(g.Elementwise) == 1


def test_every_format_of_layers_of_all_kinds(tmp_path):
    model = settled(trunk())
    whole = learned_layers(simplify(trace(model, (3, 16, 16))))
    assert (whole.count(g.Int8Conv), whole.count(g.Int8Dense), whole.count(g.Dense)) == (4, 1, 1)
    assert exportable(model, (3, 16, 16)) == ""
    report = export_model(model, (3, 16, 16), tmp_path, FORMATS, images=images(64), verify="deep")
    for artefact in report["artefacts"]:
        found = artefact["int8"]
        assert found["what"] == "layers" and found["ranges"] == "learned" and found["source"] == "PyTorch"
        assert found["top1_agreement"] > 0.95 and artefact["verify"]["top1_agreement"] == 1
        assert "calibration_images" not in found


def test_what_such_a_network_cannot_be_exported_as(tmp_path):
    model = settled(trunk())
    for formats, how, message in (
        (["c"], {}, "trained with --int8-aware, .* which a model.c does not have: leave --format c away"),
        (["onnx"], {"int8": "weights"}, "leave --int8 weights away"),
    ):
        with pytest.raises(FsgError, match=message):
            export_model(model, (3, 16, 16), tmp_path, formats, **how)


def test_values_halfway_between_two_numbers_are_told_of():
    nodes = (
        g.Input(name="image", shape=(1, 4)),
        g.Affine(name="twice", inputs=("image",), shape=(1, 4), scale=np.full(4, 2.0), bias=np.zeros(4)),
        g.Quantize(name="grid", inputs=("twice",), shape=(1, 4), step=0.5, zero=0),
    )
    x = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.375, 0.4]], np.float32)
    assert signs_near_zero(g.BinaryGraph(nodes), x).tolist() == [False, True]


@pytest.fixture
def train(tiny_npz, tmp_path):
    def run(name, **settings):
        folder = tmp_path / name
        defaults = {"method": "ste", "model": "resnet8", "batch_size": 16, "device": "cpu", "epochs": 1, "lr": 0.01}
        config = Config(**{"dataset": f"npz:{tiny_npz}", **defaults, "int8_aware": True, **settings})
        folder.mkdir(exist_ok=True)
        save_config(config, folder / "config.toml")
        loop.train(config, folder, Console(file=io.StringIO()), check=exportable)
        return folder

    return run


def test_a_run_is_trained_resumed_and_exported(train, tmp_path):
    stopped = train("again", schedule="constant")
    before = read_checkpoint(stopped)["model"]["conv1_gives.log_step"].item()
    train("again", schedule="constant", epochs=2)
    folder = train("once", schedule="constant", epochs=2)
    states = [read_checkpoint(path)["model"] for path in (stopped, folder)]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    assert states[0]["conv1_gives.log_step"].item() != before

    model = read_checkpoint(folder)["model"]
    ranges = {name: tensor.item() for name, tensor in model.items() if name.endswith("log_step")}
    assert len(ranges) == 6 and len(set(ranges.values())) == 6 and 0 not in ranges.values()
    run = open_run(folder)
    assert {n: m.log_step.item() for n, m in run.model.named_modules() if isinstance(m, FakeQuantize)} == {
        name.rpartition(".")[0]: value for name, value in ranges.items()
    }

    report = export_run(run, FORMATS, tmp_path / "export", writer="direct")
    again = export_run(run, ["onnx"], tmp_path / "again", int8="layers")
    assert json.loads((tmp_path / "export" / "report.json").read_text())["artefacts"][0]["int8"]["ranges"] == "learned"
    assert {a["sha256"] for a in again["artefacts"]} <= {a["sha256"] for a in report["artefacts"]}
    x = images(8, 8)
    logits = [open_model(artefact["path"])(x) for artefact in report["artefacts"]]
    for other in logits[1:]:
        np.testing.assert_array_equal(other.argmax(1), logits[0].argmax(1))
    with pytest.raises(FsgError, match=r"once was trained with --int8-aware, for which there is no baseline"):
        baseline(folder, "float32")


def test_a_run_starts_from_the_checkpoint_of_another(train):
    plain = train("plain", int8_aware=False)
    folder = train("tuned", init=str(plain / "checkpoint.pt"), lr=1e-9)
    before, after = (read_checkpoint(path)["model"] for path in (plain, folder))
    torch.testing.assert_close(after["conv1.weight"], before["conv1.weight"])
    assert set(after) - set(before) == {name for name in after if re.search(r"_(reads|gives)\.", name)}
