"""--int8: float layers' weights as integers, in every format exactly those."""

import numpy as np
import onnx
import pytest
from networks import RESNETS, exact
from nodes import convolution, floats, node, of_nodes
from torch import nn

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.artefacts import check_settings
from fsg.export.formats.packed import from_packed, to_packed
from fsg.export.from_file import export_packed
from fsg.export.int8 import in_int8, int8_weights, rounded
from fsg.export.pipeline import export_model
from fsg.export.reference import run_graph
from fsg.runtime.model.packed.read import parse_packed
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts

ALL = ("tflite", "onnx", "packed", "c")


@pytest.mark.parametrize("seed", range(20))
def test_rounded_weights_are_found_again_exactly(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 40)), int(rng.integers(1, 30)), 3, int(rng.integers(3, 5)))
    weight = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, (shape[0], 1, 1, 1))).astype(np.float32)
    if seed % 2:
        weight[0] = 0
    assert in_int8(weight) is None
    found = in_int8(rounded(weight))
    assert (found is None) == (weight.size < 256)
    if found:
        whole, steps = found
        assert whole.dtype == np.int8 and np.abs(whole[1:].astype(int)).max() == 127
        steps = steps.reshape(-1, 1, 1, 1)
        np.testing.assert_array_equal(whole * steps, rounded(weight))
        assert (np.abs(rounded(weight) - weight) <= 0.51 * steps).all()


def layers():
    """Convolutions of every kind that stays float, a batch norm to fold, a dense layer of images and one of rows."""
    return (
        convolution(g.Conv, 4, 24, 3, 2, 1),
        node(g.Affine, scale=1 + floats(24) / 8, bias=floats(24)),
        node(g.Sign),
        convolution(g.BinaryConv, 24, 32, 3, 1, 1),
        convolution(g.Conv, 32, 32, 3, 1, 1, groups=32),
        convolution(g.Conv, 32, 16, 3, 1, 1, groups=2),
        node(g.Transpose, permutation=(0, 2, 3, 1)),
        node(g.Dense, weight=floats(20, 16), bias=floats(20)),
        node(g.Reshape, 1, 240),
        node(g.Dense, weight=floats(5, 240), bias=floats(5)),
    )


def test_every_format_holds_the_integers(tmp_path):
    graph = of_nodes((4, 5, 7), *layers())
    path = tmp_path / "source.fsg"
    path.write_bytes(to_packed(graph, {}))
    plain = export_packed(path, ALL, tmp_path / "plain")
    report = export_packed(path, ALL, tmp_path / "int8", int8="weights", verify="deep")
    whole = int8_weights(graph)
    changed = [n for n in whole.nodes if isinstance(n, (g.Conv, g.Dense))]
    assert len(changed) == 5 and all(in_int8(n.weight) for n in changed)
    x = np.random.default_rng(0).standard_normal((6, 4, 5, 7), np.float32)
    expected = run_graph(whole, x)[whole.nodes[-1].name]
    for before, artefact in zip(plain["artefacts"], report["artefacts"], strict=True):
        found = open_model(artefact["path"])(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        assert artefact["size_bytes"] < before["size_bytes"] and "int8" not in before
        assert artefact["int8"]["source"] == "source.fsg" and artefact["int8"]["samples"] == 64
        assert 0 < artefact["int8"]["class_median_abs_diff"] < 0.1 * np.abs(expected).max()
        assert artefact["verify"]["source"] == "the network with int8 weights"
    assert op_counts(tmp_path / "int8" / "model.tflite")["DEQUANTIZE"] == 5
    model = onnx.load(tmp_path / "int8" / "model.onnx")
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in model.graph.initializer) == 5
    content = (tmp_path / "int8" / "model.fsg").read_bytes()
    assert to_packed(from_packed(parse_packed("it", content)), {}) == content
    text = (tmp_path / "int8" / "model.c").read_text()
    assert text.count("static const int8_t ") == 4  # depthwise ones stay float there


def test_resnet20(tmp_path):
    """Files are smaller by three quarters of their float layers."""
    model, shape = RESNETS["W1A1"]()
    floats = export_model(model, shape, tmp_path / "float", ALL, writer="direct")
    whole = export_model(model, shape, tmp_path / "int8", ALL, int8="weights")
    saved = 3 * (27 * 16 + 16 * 32 + 32 * 64 + 64 * 10)
    for before, after in zip(floats["artefacts"], whole["artefacts"], strict=True):
        assert saved - 2500 < before["size_bytes"] - after["size_bytes"] < saved, after["format"]
    assert whole["artefacts"][0]["writer"] == "direct"


def test_networks_without_float_layers_to_round(tmp_path):
    model = exact(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()))
    for artefact in export_model(model, (3, 4, 4), tmp_path, ALL, int8="weights")["artefacts"]:
        assert artefact["int8"]["differing"] == 0 and artefact["int8"]["max_abs_diff"] < 1e-5


def test_settings():
    with pytest.raises(FsgError, match=r"--int8 is written by fsg itself: leave --writer lce away"):
        check_settings(["tflite"], writer="lce", int8="weights")


def test_damaged_integers_are_refused():
    whole = int8_weights(of_nodes((4, 5, 7), *layers()))
    content = to_packed(whole, {})
    assert b'"version":"2"' in content
    with pytest.raises(FsgError, match=r"truncated or damaged .*step"):
        parse_packed("it", content.replace(b'.step"', b'.stop"', 1))
