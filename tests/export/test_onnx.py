"""ONNX: valid, standard, its weights really one bit each, and equal to PyTorch in ONNX Runtime."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import Functions, assert_same, exact, head, images, outputs, random_network
from torch import nn

from fsg import FsgError
from fsg.export.formats.onnx import OLDEST_OPSET, to_onnx
from fsg.export.graph import BinaryConv, BinaryDense
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.runtime.model.metadata import read_metadata
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear
from fsg.training.networks.quantizers import WEIGHT_QUANTIZERS
from fsg.training.networks.resnet import build_model


def export(model, shape, metadata=None):
    """The simplified graph, the file and its parsed content."""
    graph = simplify(trace(model, shape))
    content = to_onnx(graph, metadata or {})
    return graph, content, onnx.load_from_string(content)


def scores(content, x):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in x.numpy()])


@pytest.mark.parametrize("one_bit", [True, False])
def test_random_networks_give_pytorchs_logits(one_bit):
    for seed in range(40):
        model, shape = random_network(seed, one_bit=one_bit)
        _, content, proto = export(model, shape)
        x = images(3, *shape, seed=seed)
        assert_same(scores(content, x), outputs(model, x), str(seed))
        onnx.checker.check_model(proto, full_check=True)
        assert {entry.domain for entry in proto.opset_import} == {""}
        assert {node.domain for node in proto.graph.node} == {""}


@pytest.mark.parametrize("quantizer", WEIGHT_QUANTIZERS)
@pytest.mark.parametrize("bits", [1, 32])
def test_freshly_drawn_weights_of_every_quantiser(quantizer, bits):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 9, 3), BinaryActivation() if bits == 1 else nn.ReLU()]
    conv = BinaryConv2d(9, 8, 3, padding=1, quantizer=quantizer, padding_value=float(bits == 1))
    model = nn.Sequential(*layers, conv, nn.BatchNorm2d(8), *head(8)).eval()
    x = torch.randn(4, 3, 8, 8)
    assert_same(scores(export(model, (3, 8, 8))[1], x), outputs(model, x))


@pytest.mark.parametrize(
    "layers",
    [
        [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d((3, 2), 1, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 7)],
        [Functions()],
    ],
    ids=["pools", "functions"],
)
def test_pools_and_functions(layers):
    model = exact(nn.Sequential(*layers))
    x = images(4, 3, 9, 7)
    assert_same(scores(export(model, (3, 9, 7))[1], x), outputs(model, x))


@pytest.mark.parametrize("bits", [1, 32])
def test_shapes_are_inferred_for_every_value(bits):
    graph, _, proto = export(exact(build_model("resnet20", classes=5, activation_bits=bits)), (3, 16, 16))
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    assert shapes["image"] == (1, 3, 16, 16) and shapes["logits"] == (1, 5)
    for node in graph.nodes[1:-1]:
        assert shapes[node.name] == node.shape


@pytest.mark.parametrize(
    ("channels", "outputs_", "kernel"), [(1, 1, 1), (1, 2, 3), (3, 5, 3), (7, 4, 1), (16, 8, 3), (33, 48, (1, 3))]
)
def test_binary_weights_take_one_bit(channels, outputs_, kernel):
    layers = [BinaryActivation(), BinaryConv2d(channels, outputs_, kernel, padding=1), *head(outputs_)[:2]]
    model = exact(
        nn.Sequential(*layers, BinaryActivation(), BinaryLinear(outputs_, 9, quantizer="scaled-sign"), nn.ReLU())
    )
    graph, content, proto = export(model, (channels, 5, 6))
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = [node for node in graph.nodes if isinstance(node, (BinaryConv, BinaryDense))]
    assert len(layers) == 2
    for layer in layers:
        tensor = stored[f"{layer.name}.packed"]
        assert tensor.data_type == onnx.TensorProto.UINT8
        rows, size = len(layer.negative), layer.negative[0].size
        assert len(tensor.raw_data) == rows * -(-size // 8)
        bits = np.unpackbits(np.frombuffer(tensor.raw_data, np.uint8).reshape(rows, -1), axis=1)
        np.testing.assert_array_equal(bits[:, :size], layer.negative.reshape(rows, -1))
        assert not bits[:, size:].any()
    # Nothing else is as large: no float copy of the weights travels along.
    floats = [tensor for tensor in stored.values() if tensor.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(tensor.dims) <= max(outputs_, 9) for tensor in floats)
    x = images(4, channels, 5, 6)
    assert_same(scores(content, x), outputs(model, x))


def test_a_network_takes_little_more_than_its_bits():
    model = exact(build_model("resnet20", classes=10, first_last="binary"))
    _, content, _ = export(model, (3, 32, 32))
    bits = sum(module.weight.numel() for module in model.modules() if isinstance(module, (BinaryConv2d, BinaryLinear)))
    floats = sum(p.numel() for p in model.parameters()) - bits
    assert len(content) < bits / 8 + 4 * floats + 40_000


@pytest.mark.parametrize(
    ("layers", "opset", "ir_version"),
    [
        ([nn.Conv2d(3, 8, 3), nn.ReLU()], 13, 7),
        ([nn.AvgPool2d(2), nn.Conv2d(3, 8, 3), nn.ReLU6()], 13, 7),
        ([nn.Conv2d(3, 8, 3), nn.Hardswish()], 14, 7),
        ([BinaryActivation(), BinaryConv2d(3, 8, 3, padding=1)], 18, 8),
    ],
)
def test_a_file_asks_for_no_newer_operators_than_it_has(layers, opset, ir_version):
    model, x = exact(nn.Sequential(*layers, *head(8))), images(3, 3, 8, 8)
    graph = simplify(trace(model, (3, 8, 8)))
    for asked, found, ir in [(None, opset, ir_version), (21, 21, 10)]:
        content = to_onnx(graph, {}, opset=asked)
        proto = onnx.load_from_string(content)
        assert (proto.opset_import[0].version, proto.ir_version) == (found, ir)
        assert_same(scores(content, x), outputs(model, x))
    if opset > OLDEST_OPSET:  # one less is none that the checker takes
        proto = onnx.load_from_string(to_onnx(graph, {}))
        proto.opset_import[0].version -= 1
        with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
            onnx.checker.check_model(proto, full_check=True)
    with pytest.raises(FsgError, match=f"--opset {opset - 1}: this network needs at least {opset}, which first has"):
        to_onnx(graph, {}, opset=opset - 1)
    with pytest.raises(FsgError, match=r"--opset 999: onnx .* knows none newer than"):
        to_onnx(graph, {}, opset=999)


class Shapes(nn.Module):
    """Everything that changes a shape, on bits too."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(BinaryActivation(), nn.Flatten(), BinaryLinear(8 * 36, 9), nn.ReLU())
        self.conv, self.last = nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Linear(9 + 8 + 8 * 4, 5)
        self.pool, self.mean = nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.conv(x)
        flat = self.mean(x).view(x.shape[0], -1)
        return self.last(torch.cat([self.dense(x), flat + x.mean((2, 3)), torch.flatten(self.pool(x), 1)], 1))


@pytest.mark.parametrize("batch", [1, 4, None])
def test_batches(batch):
    model = exact(Shapes())
    content = to_onnx(simplify(trace(model, (3, 8, 8))), {}, batch=batch)
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert (source.shape, result.shape) == ([batch or "N", 3, 8, 8], [batch or "N", 5])
    for count in (batch,) if batch else (1, 2, 7):
        x = images(count + 1, 3, 8, 8)[1:]
        assert_same(session.run(None, {"image": x.numpy()})[0], outputs(model, x))


def test_metadata_can_be_read_without_onnx(tmp_path):
    metadata = {"mean": [0.5], "class_names": ["größer", 'a"b'], "input_shape": [1, 1, 4, 4]}
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(simplify(trace(exact(nn.Sequential(*head(1))), (1, 4, 4))), metadata))
    assert read_metadata(path) == metadata


def test_names_of_layers_cannot_collide_with_those_of_the_format():
    model = nn.Sequential()
    names = ["logits", "image", "zero", "plus_one", "bit_masks", "int_1", "shape_4", "output"]
    for name in names:
        block = BinaryConv2d(4, 4, 3, padding=1) if name in ("zero", "shape_4") else nn.BatchNorm2d(4)
        model.add_module(name, nn.ReLU() if name == "plus_one" else block)
        model.add_module(f"{name}_sign", BinaryActivation())
    graph, content, _ = export(exact(model), (4, 6, 6))
    assert {"logits", "image"} <= {node.name for node in graph.nodes}
    x = images(3, 4, 6, 6)
    assert_same(scores(content, x), outputs(model, x))


def test_without_onnx(monkeypatch):
    graph = trace(nn.Sequential(nn.ReLU()), (1, 4, 4))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(FsgError, match=r"needs the package onnx: pip install 'fsg\[export\]'"):
        to_onnx(graph, {})
