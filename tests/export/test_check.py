"""That a network cannot be exported is said before it is trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fsg import FsgError
from fsg.export import check
from fsg.export import graph as g
from fsg.export.check import exportable
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.training.networks.binarize import binarize
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d
from fsg.training.networks.resnet import build_model

OWN = """
from torch import nn
from fsg.training.layers import BinaryActivation, BinaryConv2d

def make(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.Hardshrink(), BinaryActivation(), BinaryConv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""


def test_what_will_be_possible_is_known():
    assert exportable(build_model("resnet20", classes=10), (3, 32, 32)) == ""
    steep = nn.Sequential(nn.Conv2d(3, 4, 11, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert exportable(steep, (3, 64, 64)) == ""
    zeros = nn.Sequential(BinaryActivation(), BinaryConv2d(3, 4, 3, 1, 2, padding_value=0))
    assert exportable(zeros, (3, 64, 64)).startswith("as .onnx only: cannot export 1")
    with pytest.raises(FsgError, match=r"cannot export hardshrink in the forward of 1"):
        exportable(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardshrink()), (3, 8, 8))


def test_hooks_are_part_of_the_forward(monkeypatch):
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)]
    model = nn.Sequential(*layers)
    layers[1].register_forward_hook(lambda module, inputs, output: output * 2 + 1)
    assert exportable(model, (3, 8, 8)) == "" and model.training
    images = torch.randn(2, 3, 8, 8)
    graph = trace(model, (3, 8, 8))
    found = run_graph(graph, images.numpy())[graph.nodes[-1].name]
    np.testing.assert_allclose(found, model.eval()(images).detach(), rtol=1e-4, atol=1e-5)


def test_what_a_graph_gets_wrong_is_noticed(monkeypatch):
    def wrong(model, shape):
        graph = trace(model, shape)
        return g.BinaryGraph((*graph.nodes[:-1], replace(graph.nodes[-1], bias=graph.nodes[-1].bias + 1)))

    monkeypatch.setattr(check, "trace", wrong)
    with pytest.raises(FsgError, match=r"PyTorch differs first at 1 \(Dense\)"):
        exportable(nn.Sequential(nn.Flatten(), nn.Linear(192, 9)), (3, 8, 8))


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish, nn.ELU])
def test_signs_of_what_is_nearly_zero_do_not_matter(act):
    layers = [nn.Conv2d(3, 8, 3), act(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), act(), nn.Conv2d(8, 16, 3)]
    assert exportable(binarize(nn.Sequential(*layers, nn.Flatten(), nn.Linear(1600, 9))), (3, 16, 16)) == ""


def test_a_run_that_could_not_be_exported_is_not_begun(fsg, refused, digits_npz, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_with_hardshrink.py").write_text(OWN)
    command = ["train", "--model", "own_with_hardshrink:make", "--dataset", f"npz:{digits_npz}", "--epochs", "1"]
    line = refused(*command, "--out", "run")
    assert "cannot export hardshrink in the forward of 1" in line and "--no-export-check trains it all the same" in line
    assert not (tmp_path / "run").exists()
    code, out, _ = fsg(*command, "--out", "run", "--no-export-check")
    assert code == 0 and "test accuracy" in out
