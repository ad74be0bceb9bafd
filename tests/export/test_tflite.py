"""TensorFlow Lite through LCE's converter: PyTorch's results, on the operators that they should be.

LCE's converter turns some spellings of a layer into wrong results without a warning, so every spelling that fsg uses
is converted here, and each output pixel compared.
"""

import sys

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from networks import Functions, Joined, assert_same, exact, head, images, outputs, random_network
from torch import nn

from fsg import FsgError
from fsg.export.formats.tflite import write as tflite
from fsg.export.formats.tflite.lower import lower
from fsg.export.formats.tflite.process import converter
from fsg.export.formats.tflite.write import check_operators, to_tflite
from fsg.export.graph import BinaryConv
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.export.verify import require_agreement
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts, pack_tflite
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear

SIGN = BinaryActivation


class Branches(nn.Module):
    """Two binary convolutions and a sum that read one sign."""

    def __init__(self, stride: int, padding_value: float = 1.0) -> None:
        super().__init__()
        self.adds_bits = stride == 1
        self.stem, self.sign = nn.Conv2d(3, 20, 1), SIGN()
        self.a = BinaryConv2d(20, 20, 3, stride, 1, padding_value=padding_value)
        self.b = BinaryConv2d(20, 20, 5, stride, 2, padding_value=padding_value)
        self.bn = nn.BatchNorm2d(20)
        self.last = nn.Sequential(SIGN(), BinaryConv2d(20, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits = self.sign(self.stem(x))
        y = self.bn(self.a(bits)) + self.b(bits)
        return self.last(y + bits if self.adds_bits else y)


def binary(*size, **options):
    return nn.Sequential(nn.Conv2d(3, size[0], 1), SIGN(), BinaryConv2d(*size, **options), nn.BatchNorm2d(size[1]))


def chain():
    """Activations that stay bits from one convolution to the next, at zero scales too."""
    return nn.Sequential(
        *(SIGN(), BinaryConv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)),
        *(SIGN(), BinaryConv2d(32, 48, 3, padding=1), nn.BatchNorm2d(48), nn.BatchNorm2d(48)),
        *(SIGN(), BinaryConv2d(48, 33, 3, 2, 1, quantizer="scaled-sign"), nn.BatchNorm2d(33), nn.MaxPool2d(2)),
        *(SIGN(), BinaryConv2d(33, 5, 1)),
    )


def alexnet():
    """torchvision's AlexNet with fewer channels, all behind its first layer binary."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 11, 4, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2), nn.BatchNorm2d(16)),
        *(SIGN(), BinaryConv2d(16, 24, 5, padding=2), nn.BatchNorm2d(24), nn.MaxPool2d(3, 2)),
        *(SIGN(), BinaryConv2d(24, 32, 3, padding=1), nn.BatchNorm2d(32)),
        *(SIGN(), BinaryConv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.BatchNorm1d(32), SIGN(), BinaryLinear(32, 40), nn.BatchNorm1d(40), SIGN(), BinaryLinear(40, 7)),
    )


def cases():
    """name -> (model, its image's height and width, LceBconv2d, CONV_2D)."""
    found = {}
    for height, width in ((8, 8), (9, 7)):
        size = f"{height}x{width}"
        for kernel, stride, padding, dilation in [
            (3, 1, 1, 1), (3, 1, 0, 1), (3, 2, 1, 1), (3, 3, 1, 1), (5, 2, 2, 1), (5, 1, 2, 1), (1, 2, 0, 1),
            (3, 1, 2, 2), (3, 2, 2, 2), (3, 1, 2, 1), (3, 1, (1, 0), 1), (3, (1, 2), 1, 1), (2, 2, 0, 1),
        ]:  # fmt: skip
            how = f"k{kernel}s{stride}p{padding}d{dilation}-{size}"
            options = (kernel, stride, padding, dilation)
            found[f"binary-{how}"] = binary(16, 24, *options), (height, width), 1, 1
            found[f"weights-only-{how}"] = nn.Sequential(BinaryConv2d(3, 8, *options)), (height, width), 0, 1
            found[f"float-{how}"] = nn.Sequential(nn.Conv2d(3, 8, *options)), (height, width), 0, 1
        for kernel, stride, padding, dilation in [  # of floats alone: most are no SAME padding
            (2, 1, 1, 1), (2, 2, 1, 1), (4, 2, 1, 1), (4, 1, 2, 1), (5, 4, 2, 1), (3, 4, 1, 1), (3, 2, (1, 0), 1),
            ((3, 1), 2, (1, 0), 1), ((1, 3), 2, (0, 1), 1), ((1, 3), 2, 1, 1), (3, 2, 1, 3), (2, 3, 2, 3),
            (11, 4, 2, 1), (11, 4, 5, 1),
        ]:  # fmt: skip
            if (height, width) == (9, 7) and (kernel, padding) == (11, 2):
                continue  # smaller than the kernel
            how = f"k{kernel}s{stride}p{padding}d{dilation}-{size}"
            options = (kernel, stride, padding, dilation)
            found[f"float-{how}"] = nn.Sequential(nn.Conv2d(3, 8, *options)), (height, width), 0, 1
        found[f"stem-{size}"] = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8)), (height, width), 0, 1
    for channels, filters in ((1, 1), (3, 5), (16, 16), (31, 33), (48, 3)):
        for value in (0.0, 1.0, -1.0):
            model = binary(channels, filters, 3, padding=1, padding_value=value)
            found[f"channels-{channels}-{filters}-pad-{value:g}"] = model, (6, 6), 1, 1
    for value in (0.0, 1.0):
        found[f"branches-{value:g}"] = Branches(1, value), (8, 8), 3, 1
    zero = BinaryConv2d(3, 8, 3, 2, 1, padding_value=0)
    found |= {
        "alexnet": (alexnet(), (64, 64), 5, 1),
        "branches-stride-2": (Branches(2), (8, 8), 3, 1),
        "zero-dilated": (binary(16, 8, 3, 1, 2, 2, padding_value=0), (9, 6), 1, 1),
        "weights-only-zero": (nn.Sequential(zero, nn.BatchNorm2d(8), nn.ReLU()), (8, 8), 0, 1),
        "scaled-sign": (binary(16, 8, 3, quantizer="scaled-sign"), (8, 8), 1, 1),
        "chain": (chain(), (11, 10), 4, 0),
        "relu": (nn.Sequential(SIGN(), BinaryConv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), SIGN()), (8, 8), 1, 0),
        "pool-sign": (nn.Sequential(nn.MaxPool2d(2), SIGN(), BinaryConv2d(3, 8, 3, padding=1)), (9, 8), 1, 0),
        "sign-pool": (nn.Sequential(SIGN(), nn.MaxPool2d(2), BinaryConv2d(3, 8, 3, padding=1)), (9, 8), 1, 0),
        "dense": (nn.Sequential(*head(3)[:2], SIGN(), BinaryLinear(3, 33), SIGN(), BinaryLinear(33, 7)), (8, 8), 2, 0),
        "sign-flatten": (nn.Sequential(*head(3)[:1], SIGN(), nn.Flatten(), BinaryLinear(3, 33)), (8, 8), 1, 0),
        "dense-weights-only": (nn.Sequential(*head(3)[:2], BinaryLinear(3, 33), nn.ReLU()), (8, 8), 0, 0),
        "groups": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, 2, 1, groups=2)), (8, 8), 0, 2),
        "depthwise": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1, groups=8)), (8, 8), 0, 2),
    }
    for height, width in ((8, 8), (9, 7)):
        size = f"{height}x{width}"
        conv = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        last = SIGN(), BinaryConv2d(8, 8, 3, padding=1)
        found |= {
            f"padded-pool-{size}": (nn.Sequential(*conv, nn.MaxPool2d(3, 2, 1), *last), (height, width), 1, 1),
            f"padded-relu-pool-{size}": (nn.Sequential(*conv, nn.ReLU(), nn.MaxPool2d(3, 2, 1)), (height, width), 0, 1),
            f"padded-sign-pool-{size}": (
                nn.Sequential(SIGN(), nn.MaxPool2d(3, 2, 1), BinaryConv2d(3, 8, 1)),
                (height, width),
                1,
                0,
            ),
            f"average-{size}": (nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, 1)), (height, width), 0, 0),
            f"flatten-{size}": (nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 7)), (height, width), 0, 0),
            f"sign-flatten-{size}": (
                nn.Sequential(SIGN(), nn.Flatten(), BinaryLinear(3 * height * width, 7)),
                (height, width),
                1,
                0,
            ),
            f"functions-{size}": (Functions(), (height, width), 1, 1),
            f"joined-{size}": (Joined(), (height, width), 4, 0),
        }
    for seed in (5, 8, 12, 28, 31, 43, 44, 46):  # three channels, and no padding that would be refused
        model, (_, *size) = random_network(seed)
        found[f"random-{seed}"] = model, tuple(size), None, None
    return {name: (exact(model, index), *rest) for index, (name, (model, *rest)) in enumerate(sorted(found.items()))}


CASES = cases()


@pytest.fixture(scope="module")
def converted():
    """name -> (lowered graph, .tflite content)."""
    graphs = {name: lower(simplify(trace(model, (3, *size)))) for name, (model, size, *_) in CASES.items()}
    return {name: (graph, converter().convert("lce", graph)) for name, graph in graphs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_conversions(name, converted, path):
    model, size, *layers = CASES[name]
    graph, content = converted[name]
    ops = op_counts(content)
    check_operators(graph, ops)
    if layers != [None, None]:
        assert [ops.get("LceBconv2d", 0), ops.get("CONV_2D", 0) + ops.get("DEPTHWISE_CONV_2D", 0)] == layers
    assert not ops.keys() & {"SELECT", "SELECT_V2", "GREATER_EQUAL"}  # a sign that was not recognised
    path.write_bytes(content)
    x = images(6, 3, *size)
    expected = outputs(model, x)
    scores = open_model(path)(x.numpy())
    assert_same(scores.reshape(len(x), -1), expected.flatten(1))
    for options in ({"kernels": "scalar"}, {"fuse": False}):
        np.testing.assert_array_equal(open_model(path, **options)(x.numpy()), scores)


@pytest.mark.slow
def test_activations_between_binary_convolutions_stay_bits(converted):
    assert op_counts(converted["chain"][1]) == {"LceBconv2d": 4, "LceQuantize": 2, "LceBMaxPool2d": 1, "PADV2": 1}


def scores_of(path, x):
    return open_model(path)(x.numpy()).reshape(len(x), -1)


@pytest.mark.slow
def test_a_wrong_bit_or_scale_is_noticed(converted, path):
    """Whatever is changed in a file, one value of one layer's weights, disagrees with PyTorch."""
    name = "channels-16-16-pad-1"
    model, size, *_ = CASES[name]
    x = images(256, 3, *size)
    expected = outputs(model, x).flatten(1).numpy()
    labels = np.zeros(len(x), int)

    def agreement(change):
        content = schema.ModelT.InitFromPackedBuf(converted[name][1])
        graph = content.subgraphs[0]
        (conv,) = (op for op in graph.operators if len(op.inputs) == 5)
        change([content.buffers[graph.tensors[i].buffer] for i in conv.inputs[1:4]])
        path.write_bytes(pack_tflite(content))
        return require_agreement(path.name, scores_of(path, x), expected, labels, lambda chosen: chosen < 0)

    def changed(buffer, kind, change):
        values = np.frombuffer(bytes(buffer.data), kind).copy()
        change(values)
        buffer.data = values.view(np.uint8)

    def flip(buffers):
        changed(buffers[0], np.int32, lambda words: np.bitwise_xor.at(words, 0, 1))

    def scale(buffers):
        changed(buffers[1], np.float32, lambda values: np.multiply.at(values, np.flatnonzero(values)[-1], 1.001))

    def poison(buffers):
        changed(buffers[2], np.float32, lambda values: values.put(3, np.nan))

    assert agreement(lambda buffers: None)["max_abs_diff"] < 1e-5
    for change, message in [(flip, "class"), (scale, "class"), (poison, "not finite")]:
        with pytest.raises(FsgError, match=rf"model\.tflite.*{message}"):
            agreement(change)


# --- what the converter may not do ------------------------------------------------------------------------


def test_a_fallback_to_float_is_refused():
    graph = lower(trace(exact(nn.Sequential(*binary(8, 8, 3), *head(8))), (3, 8, 8)))
    right = {"LceQuantize": 1, "LceBconv2d": 1, "CONV_2D": 1, "FULLY_CONNECTED": 1, "MUL": 1}
    check_operators(graph, right)
    check_operators(graph, right | {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 1})
    for wrong, message in [
        ({"LceBconv2d": 0, "CONV_2D": 2}, "wrote 0 binary convolutions where the model has 1"),
        ({"CONV_2D": 2}, "wrote 2 float convolutions where the model has 1"),
        ({"FULLY_CONNECTED": 2}, "wrote 2 float dense layers where the model has 1"),
    ]:
        with pytest.raises(FsgError, match=message):
            check_operators(graph, right | wrong)


@pytest.mark.slow
def test_a_binary_convolution_that_becomes_float_is_no_result(monkeypatch):
    """The check is on what was really converted: without its rule, a grouped convolution falls back to float."""
    graph = trace(exact(binary(8, 8, 3, groups=2)), (3, 8, 8))
    monkeypatch.setattr(tflite, "lower", lambda graph: graph)
    with pytest.raises(FsgError, match="wrote 0 binary convolutions where the model has 1; nothing was exported"):
        to_tflite(graph, writer="lce")


@pytest.mark.slow
def test_a_failure_of_the_converter_is_one_line(monkeypatch, tmp_path):
    graph = trace(exact(nn.Sequential(*head(3)[:2], BinaryLinear(3, 8))), (3, 8, 8))  # has to be lowered
    monkeypatch.setattr(tflite, "lower", lambda graph: graph)
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('a file of the user')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FsgError, match="converter to TensorFlow Lite failed: TypeError: no TensorFlow") as caught:
        to_tflite(graph, writer="lce")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["tensorflow", "larq_compute_engine"])
def test_without_a_package(package, monkeypatch):
    graph = trace(nn.Sequential(SIGN()), (3, 8, 8))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FsgError, match=rf"needs the package {package}: pip install 'fsg\[lce\]'"):
        to_tflite(graph, writer="lce")


def test_cases_hold_binary_convolutions():
    assert sum(trace(model, (3, *size)).count(BinaryConv) > 0 for model, size, *_ in CASES.values()) > 60
