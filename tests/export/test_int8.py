"""--int8: float layers' weights as integers, in every format exactly those; and layers that compute with integers."""

import numpy as np
import onnx
import pytest
import read_packed
from ai_edge_litert.schema_py_generated import TensorType
from networks import RESNETS, exact
from nodes import convolution, floats, node, of_nodes
from torch import nn

from fsg import FsgError
from fsg.export import deep
from fsg.export import graph as g
from fsg.export.artefacts import check_settings
from fsg.export.formats.onnx import to_onnx
from fsg.export.formats.packed import from_packed, to_packed
from fsg.export.formats.tflite.write import to_tflite
from fsg.export.from_file import export_packed
from fsg.export.int8 import in_int8, int8_layers, int8_weights, rounded, signs_moved
from fsg.export.pipeline import export_model
from fsg.export.reference import run_graph
from fsg.runtime.model.grids import grid_of
from fsg.runtime.model.operators import read_operators
from fsg.runtime.model.packed.read import parse_packed
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts, read_tflite

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
        assert after["bytes"]["int8"] == saved // 3
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


# Layers on integers

FORMATS = ("tflite", "onnx", "packed")


def grids(seed, count=4000):
    values = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    return values * np.float32(10.0 ** (seed % 7 - 3)) + np.float32(seed % 3 - 1)


@pytest.mark.parametrize("seed", range(12))
def test_a_grid_holds_the_values_and_0(seed):
    values = grids(seed)
    step, zero = grid_of(values)
    assert np.float32(step) == step and np.float32(step).view(np.uint32) & 0xFFFF == 0
    whole = np.clip(np.rint(values / step), -128 - zero, 127 - zero)
    inside = (whole > -128 - zero) & (whole < 127 - zero)
    assert inside.mean() > 0.95
    assert np.abs(whole * step - values)[inside].max() <= 0.5001 * step
    assert step < (max(values.max(), 0) - min(values.min(), 0)) / 250


def test_grids_of_what_never_changes():
    assert grid_of(np.zeros(10, np.float32)) == (1.0, 0)
    step, zero = grid_of(np.full(10, 3.0, np.float32))
    assert zero == -128 and abs(255 * step - 3) < 0.03
    step, zero = grid_of(np.full(10, -3.0, np.float32))
    assert zero == 127 and abs(255 * step - 3) < 0.03


def trunk():
    """Float layers of every kind around binary ones, with a ReLU, max pools and a transpose between them."""
    pool = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    return (
        convolution(g.Conv, 4, 24, 3, 2, 1),
        node(g.Affine, scale=1 + floats(24) / 8, bias=floats(24)),
        node(g.Elementwise, operator="ReLU", settings={}),
        convolution(g.Conv, 24, 24, 3, 1, 1, groups=24),
        node(g.MaxPool, **pool),
        node(g.Sign),
        convolution(g.BinaryConv, 24, 32, 3, 1, 1),
        convolution(g.Conv, 32, 16, 3, 1, 1),
        convolution(g.Conv, 16, 20, 3, 1, 1, groups=2),
        convolution(g.Conv, 20, 4, 1),
        convolution(g.Conv, 4, 20, 1, dilation=2),
        node(g.MaxPool, **pool),
        node(g.Transpose, permutation=(0, 2, 3, 1)),
        node(g.Dense, weight=floats(20, 20), bias=floats(20)),
        node(g.Reshape, 1, 120),
        node(g.Dense, weight=floats(32, 120), bias=floats(32)),
        node(g.Dense, weight=floats(9, 32), bias=floats(9)),
    )


def assert_near(found, expected):
    """The same for most images; what lies halfway between two integers may be rounded otherwise in some."""
    difference = np.abs(found - expected).max(1) / np.abs(expected).max()
    assert np.median(difference) <= 1e-4 and difference.max() <= 0.02, difference


def on_integers(seed=0, shape=(4, 21, 13)):
    graph = of_nodes(shape, *trunk())
    x = np.random.default_rng(seed).standard_normal((40, *shape), np.float32)
    return graph, int8_layers(graph, x[:32]), x[32:]


def test_which_layers_are_on_integers():
    graph, whole, x = on_integers()
    assert [type(n).__name__ for n in whole.nodes if isinstance(n, (g.Conv, g.Dense, g.Int8Layer, g.Quantize))] == [
        *("Quantize", "Int8Conv", "Int8Conv"),  # the image; the ReLU is part of the stem; depthwise
        *("Quantize", "Int8Conv", "Int8Conv"),  # what a binary layer gives; grouped
        *("Int8Conv", "Int8Conv"),  # of few weights, which would not be worth rounding something for
        *("Int8Dense", "Int8Dense", "Dense"),  # the last gives the result
    ]
    assert whole.count(g.Elementwise) == 0
    signs, moved = signs_moved(whole, x)
    assert signs == len(x) * 24 * 6 * 4 and 0 < moved < 0.05 * signs
    exact, rounded_ = run_graph(graph, x)[graph.nodes[-1].name], run_graph(whole, x)[whole.nodes[-1].name]
    assert np.median(np.abs(exact - rounded_)) < 0.3 * np.abs(exact).mean()


def test_every_format_computes_the_same_integers(tmp_path):
    _, whole, x = on_integers()
    expected = run_graph(whole, x)[whole.nodes[-1].name]
    written = {
        "model.tflite": to_tflite(whole, writer="direct")[0],
        "model.onnx": to_onnx(whole, {}),
        "model.fsg": to_packed(whole, {}),
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
        assert_near(open_model(tmp_path / name)(x), expected)
        kind = {".tflite": "tflite", ".onnx": "onnx", ".fsg": "packed"}[name[5:]]
        compared = deep.check_file(kind, "direct", whole, content, x)
        assert compared >= {"tflite": 11, "onnx": 14, "packed": 14}[kind]
    again = from_packed(parse_packed("it", written["model.fsg"]))
    assert to_packed(again, {}) == written["model.fsg"] and b'"version":"3"' in written["model.fsg"]
    np.testing.assert_array_equal(read_packed.run(tmp_path / "model.fsg", x), open_model(tmp_path / "model.fsg")(x))


def test_a_relu_that_lets_nothing_through_on_any_image():
    graph = of_nodes(
        (4, 8, 8),
        convolution(g.Conv, 4, 24, 3, bias=np.full(24, -1e3, np.float32)),
        node(g.Elementwise, operator="ReLU", settings={}, name="relu"),
        convolution(g.Conv, 24, 5, 3),
    )
    x = np.random.default_rng(0).standard_normal((4, 4, 8, 8), np.float32)
    whole = int8_layers(graph, x)
    assert whole.count(g.Int8Conv) == 1 and not run_graph(whole, x)["relu"].any()


def test_float_layers_between_integers(tmp_path):
    """Ones that read the integers and are rounded behind, and a flattened image that the last layer reads."""
    graph = of_nodes(
        (4, 9, 7),
        convolution(g.Conv, 4, 24, 3, 1, 1),
        convolution(g.TransposedConv, 24, 20, 3, 1, 1, weight=floats(24, 20, 3, 3) / 3.0),
        node(g.Elementwise, operator="ReLU", settings={}),
        convolution(g.Conv, 20, 24, 3, 1, 1),
        node(g.Reshape, 1, 24 * 63),
        node(g.Dense, weight=floats(5, 24 * 63), bias=floats(5)),
    )
    x = np.random.default_rng(0).standard_normal((8, 4, 9, 7), np.float32)
    whole = int8_layers(graph, x)
    assert whole.count(g.Int8Layer) == 2 and whole.count(g.Quantize) == 2
    expected = run_graph(whole, x)[whole.nodes[-1].name]
    for name, content in {"m.tflite": to_tflite(whole, writer="direct")[0], "m.onnx": to_onnx(whole, {})}.items():
        (tmp_path / name).write_bytes(content)
        assert_near(open_model(tmp_path / name)(x), expected)


def test_nothing_is_dequantised_around_binary_operators(tmp_path):
    """LceQuantize reads the integers of the layer before it."""
    _, whole, _ = on_integers()
    path = tmp_path / "model.tflite"
    path.write_bytes(to_tflite(whole, writer="direct")[0])
    ops = op_counts(path)
    assert ops["QUANTIZE"] == 2 and ops["DEQUANTIZE"] == 2  # the result, and the last layer's weights
    makers = {operator.name: operator.kind for operator in read_operators(path)}
    root, names = read_tflite(path)
    graph = root.Subgraphs(0)
    for i in range(graph.OperatorsLength()):
        if names[graph.Operators(i).OpcodeIndex()] == "LceQuantize":
            source = graph.Tensors(graph.Operators(i).Inputs(0))
            assert source.Type() == TensorType.INT8 and makers[source.Name().decode()] == "DEPTHWISE_CONV_2D"


def test_export(tmp_path):
    """Of a network of one's own, with its images; decisions and moved signs are reported."""
    model, shape = RESNETS["W1A1"]()
    images = np.random.default_rng(0).standard_normal((80, *shape), np.float32)
    report = export_model(model, shape, tmp_path, FORMATS, images=images, int8="layers", verify="deep")
    for artefact in report["artefacts"]:
        found = artefact["int8"]
        assert found["what"] == "layers" and found["calibration_images"] == 80
        assert found["signs_of_int8"] == 80 * 16 * 32 * 32 and 0 < found["signs_moved"] < 0.02 * found["signs_of_int8"]
        assert artefact["verify"]["source"] == "the network with int8 layers"
        assert artefact["bytes"]["int8"] == 27 * 16 + 16 * 32 + 32 * 64 + 64 * 10
    assert report["layers"] == {"bitwise": 18, "float": 4}
    with pytest.raises(FsgError, match="--int8 layers chooses its ranges by images, and there are none"):
        export_model(model, shape, tmp_path, FORMATS, int8="layers")
    with pytest.raises(FsgError, match=r"a model.c computes float layers in float32: --int8 weights"):
        check_settings(["c"], int8="layers")


def test_maps_whose_decisions_are_ties(tmp_path):
    images = np.random.default_rng(0).integers(0, 4, (64, 3, 12, 10)).astype(np.float32)
    report = export_model(nn.ReLU(), (3, 12, 10), tmp_path, ("tflite", "onnx"), images=images, int8="layers")
    assert [artefact["verify"]["top1_agreement"] for artefact in report["artefacts"]] == [1, 1]


def test_integers_go_in_and_come_out(tmp_path):
    """With --io int8; fsg rounds images, and gives numbers, by the grids in the metadata."""
    model, shape = RESNETS["W1A1"]()
    images = np.random.default_rng(0).standard_normal((80, *shape), np.float32)
    how = {"images": images, "int8": "layers", "verify": "deep"}
    report = export_model(model, shape, tmp_path, ("tflite", "onnx"), io="int8", **how)
    with_floats = export_model(model, shape, tmp_path / "float", ("tflite",), **how)["artefacts"][0]
    for artefact in report["artefacts"]:
        session = open_model(artefact["path"])
        step, zero = session.metadata["output_grid"]
        found = session(images[:8]) / np.float32(step) + zero
        assert np.abs(found - np.rint(found)).max() < 1e-3 and found.min() >= -128 and found.max() <= 127
        floats = open_model(with_floats["path"])(images[:8])
        assert np.median(np.abs(session(images[:8]) - floats)) <= step
        assert artefact["verify"]["top1_agreement"] >= 0.97
    root, _ = read_tflite(report["artefacts"][0]["path"])
    graph = root.Subgraphs(0)
    assert {graph.Tensors(t).Type() for t in (graph.Inputs(0), graph.Outputs(0))} == {TensorType.INT8}
    kinds = onnx.load(report["artefacts"][1]["path"]).graph
    assert {v.type.tensor_type.elem_type for v in (*kinds.input, *kinds.output)} == {onnx.TensorProto.UINT8}
    with pytest.raises(FsgError, match="--io int8 is of networks on integers: add --int8 layers"):
        check_settings(["tflite"], io="int8", int8="weights")
    with pytest.raises(FsgError, match=r"--io int8 is of .tflite and .onnx files"):
        check_settings(["packed"], io="int8", int8="layers")


def test_files_that_are_on_integers_already(tmp_path):
    path = tmp_path / "source.fsg"
    path.write_bytes(to_packed(on_integers()[1], {}))
    for formats, how, what in (
        (["c"], {}, r"already, which a model.c does not have: leave --format c away"),
        (["onnx"], {"int8": "weights"}, r"already: leave --int8 weights away"),
        (["tflite"], {"int8": "layers"}, r"already: leave --int8 layers away"),
        (["tflite"], {"writer": "lce"}, r"already, which fsg itself writes: leave --writer lce away"),
    ):
        with pytest.raises(FsgError, match=rf"source.fsg has its float layers on integers {what}"):
            export_packed(path, formats, tmp_path / "out", **how)


def test_damaged_layers_are_refused():
    _, whole, _ = on_integers()
    content = to_packed(whole, {})
    for old, new, what in (
        (b"source_zero", b"source_zera", "source_zero. is missing"),
        (b'\\"step\\":0.', b'\\"step\\":0e', "is no step"),
        (b'"I32"', b'"F32"', "bias is float32"),
        (b'.weight_step"', b'.weight_stop"', "weight_step"),
    ):
        with pytest.raises(FsgError, match=f"truncated or damaged .*{what}"):
            parse_packed("it", content.replace(old, new, 1))
