"""A model of PyTorch's own, without a run, on its way into files."""

import json

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.export.pipeline import export_model
from fsg.runtime.model.metadata import read_metadata
from fsg.runtime.model.session import open_model
from fsg.training.networks.layers import Shift
from fsg.training.networks.resnet import build_model

from .patterns import Do, OwnSign


class Own(nn.Module):
    """A binary network as people write it without any library."""

    def __init__(self, maps: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.weight, self.second = nn.Parameter(torch.randn(16, 16, 3, 3)), nn.BatchNorm2d(16)
        self.last, self.maps = nn.Conv2d(16, 5, 1), maps

    def forward(self, x):
        x = self.norm(self.first(x))
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        x = self.second(F.conv2d(OwnSign.apply(x), self.weight.sign() * scale, padding=1)) + x
        x = self.last(x)
        return x if self.maps else x.mean((2, 3))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Own()
    model(torch.randn(8, 3, 12, 12))
    return model


def test_files_of_a_model_without_a_run(model, tmp_path):
    images = torch.randn(20, 3, 12, 12)
    names = {"class_names": list("abcde"), "mean": [0.5] * 3, "std": [0.25] * 3}
    report = export_model(
        model, (3, 12, 12), tmp_path / "out", images=images.numpy(), metadata=names, writer="direct", verify="deep"
    )
    assert model.training and report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["layers"] == {"bitwise": 1, "float": 2} and report["not_on_bits"] == {}
    assert [artefact["format"] for artefact in report["artefacts"]] == ["tflite", "onnx"]
    with torch.no_grad():
        expected = model.eval()(images)
    for artefact in report["artefacts"]:
        assert artefact["verify"]["samples"] == 20 and artefact["verify"]["values_compared"] > 4
        assert read_metadata(artefact["path"])["class_names"] == list("abcde")
        np.testing.assert_allclose(open_model(artefact["path"])(images.numpy()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_thresholds_and_pools_of_shortcuts_are_exported(tmp_path, size):
    torch.manual_seed(0)
    model = build_model("resnet8", classes=5, thresholds=True, shortcut_pool=True)
    for module in model.modules():
        if isinstance(module, Shift):
            module.shift.data.normal_()
    images = torch.randn(20, 3, *size)
    model(images)
    with torch.no_grad():
        expected = model.eval()(images)
    report = export_model(model, (3, *size), tmp_path, images=images.numpy(), writer="direct", verify="deep")
    assert report["layers"] == {"bitwise": 6, "float": 4} and report["not_on_bits"] == {}
    assert [artefact["format"] for artefact in report["artefacts"]] == ["tflite", "onnx"]
    for artefact in report["artefacts"]:
        assert artefact["verify"]["samples"] == 20
        np.testing.assert_allclose(open_model(artefact["path"])(images.numpy()), expected, rtol=1e-3, atol=1e-4)


def test_operators_of_several_and_one_in_place_at_the_beginning(tmp_path):
    """A softplus is several nodes with names of their own; LiteRT's product of matrices keeps values for itself."""
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Softplus(3.0), Do(lambda m, x: x @ x.transpose(2, 3)))
    images = np.random.default_rng(0).standard_normal((8, 3, 6, 6), np.float32)
    given = images.copy()
    report = export_model(model, (3, 6, 6), tmp_path, ("tflite", "onnx"), images=images, writer="direct", verify="deep")
    assert all(artefact["verify"]["values_compared"] > 4 for artefact in report["artefacts"])
    np.testing.assert_array_equal(images, given)


def test_maps_and_any_batch(tmp_path):
    torch.manual_seed(0)
    model = Own(maps=True).eval()
    report = export_model(model, (3, 8, 10), tmp_path, ["onnx"], batch=None)
    path = report["artefacts"][0]["path"]
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    images = torch.randn(3, 3, 8, 10)
    with torch.no_grad():
        np.testing.assert_allclose(open_model(path)(images.numpy()), model(images), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_exported_leaves_nothing(model, tmp_path):
    for settings, message in (
        ({"formats": ["tflite"], "opset": 20}, "--opset is of .onnx files"),
        ({"formats": ["tflite"], "batch": None}, "--batch free is of .onnx files"),
        ({"formats": ["coreml"]}, "there is no format 'coreml'; formats are tflite, onnx, packed"),
        ({"formats": ["onnx"], "writer": "lce"}, "--writer is of .tflite files"),
        ({"images": np.zeros((4, 3, 9, 9), np.float32)}, r"images of shape \[4, 3, 9, 9\] are not two or more of"),
    ):
        with pytest.raises(FsgError, match=message):
            export_model(model, (3, 12, 12), tmp_path / "out", **settings)
    with pytest.raises(FsgError, match="cannot export hardshrink in the forward of 1"):
        export_model(nn.Sequential(model, nn.Hardshrink()), (3, 12, 12), tmp_path / "out")
    assert not (tmp_path / "out").exists()
