"""Agreement with PyTorch: what must pass, and what must not."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from networks import images, outputs
from torch import nn

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.baseline import GAINS
from fsg.export.formats.onnx import to_onnx
from fsg.export.passes import bits_as_floats
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.export.verify import compare, require_agreement, signs_near_zero
from fsg.runtime.model.exported import decisions
from fsg.runtime.model.session import open_model
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d
from fsg.training.networks.resnet import build_model

RNG = np.random.default_rng(0)
EXPECTED = RNG.standard_normal((400, 10)).astype(np.float32)
LABELS = RNG.integers(0, 10, 400)


def near(chosen):
    """Every image has a sign's input within rounding of zero."""
    return np.ones(len(chosen), bool)


def far(chosen):
    """None has."""
    return np.zeros(len(chosen), bool)


def refusal(logits, expected=EXPECTED, near_zero=near):
    with pytest.raises(FsgError) as caught:
        require_agreement("model.onnx", logits, expected, LABELS, near_zero)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model.onnx")
    return str(caught.value)


def test_compare():
    expected = np.eye(4, dtype=np.float32)
    logits = expected.copy()
    logits[3] = [0, 0, 2, 0.5]
    assert compare(logits, expected, np.array([0, 1, 0, 3])) == {
        "samples": 4,
        "top1_agreement": 0.75,
        "differing": 1,
        "median_abs_diff": 0.0,
        "class_median_abs_diff": 0.0,
        "max_abs_diff": 2.0,
        "accuracy": 0.5,
        "torch_accuracy": 0.75,
    }


def test_rounding_passes():
    noisy = EXPECTED + RNG.normal(0, 1e-6, EXPECTED.shape).astype(np.float32)
    result = require_agreement("model.onnx", noisy, EXPECTED, LABELS, far)
    assert result.items() >= compare(noisy, EXPECTED, LABELS).items() and 0 < result["median_abs_diff"] < 1e-5
    assert result["median_abs_diff"] < result["class_median_abs_diff"] <= result["limit"] == 1e-4
    assert (result["differing"], result["differing_near_zero"], result["differing_ties"]) == (0, 0, 0)


def test_the_limit_that_is_reported_is_the_one_in_use():
    expected = EXPECTED * np.float32(1e4)
    limit = require_agreement("model.onnx", expected, expected, LABELS, far)["limit"]
    assert limit == pytest.approx(1e-4 * np.abs(expected).mean()) and limit > 0.5
    result = require_agreement("model.onnx", expected + np.float32(0.9 * limit), expected, LABELS, far)
    assert result["limit"] == limit and result["class_median_abs_diff"] == pytest.approx(0.9 * limit, rel=0.01)
    refusal(expected + np.float32(1.1 * limit), expected)


def test_a_few_flipped_signs_pass():
    flipped = EXPECTED.copy()
    flipped[::50] += RNG.standard_normal((8, 10)).astype(np.float32)
    result = require_agreement("model.onnx", flipped, EXPECTED, LABELS, near)
    assert result["max_abs_diff"] > 1 and result["differing"] == result["differing_near_zero"] > 0
    assert result["differing_ties"] == 0


def test_decisions_that_nothing_explains_are_refused():
    """Of three differing ones, two have a sign near zero or a tie."""
    expected = EXPECTED.copy()
    expected[20] = np.arange(10)
    expected[20, 8] = 9 - 1e-4
    other = expected.copy()
    other[[10, 20, 30]] = np.roll(other[[10, 20, 30]], 1, axis=1)
    asked = []

    def near_zero(images):
        def judge(chosen):
            asked.append(list(chosen))
            return np.isin(chosen, images)

        return judge

    result = require_agreement("model.onnx", other, expected, LABELS, near_zero([10, 30]))
    assert asked == [[10, 20, 30]]
    assert (result["differing"], result["differing_near_zero"], result["differing_ties"]) == (3, 2, 1)
    message = refusal(other, expected, near_zero([10]))
    assert f"on test image 30: class {other[30].argmax()} instead of {expected[30].argmax()}" in message
    expected[20, 8] = 9 - 1e-3
    assert "on test image 20" in refusal(other, expected, near_zero([10, 30]))


def test_signs_near_zero():
    """Of the input of every sign, in parts of its mean magnitude, in each image by itself."""
    torch.manual_seed(0)
    layers = [BinaryActivation(), BinaryConv2d(1, 2, 3), nn.BatchNorm2d(2), BinaryActivation(), BinaryConv2d(2, 1, 1)]
    graph = simplify(trace(nn.Sequential(*layers, nn.Flatten()).eval(), (1, 5, 5)))
    x = np.ones((6, 1, 5, 5), np.float32)  # nine signs make no sum of zero
    x[1, 0, 2, 2] = 0
    x[2, 0, 2, 2] = -5e-6
    x[3, 0, 2, 2] = 5e-5
    x[4] *= 1e6
    x[4, 0, 2, 2] = 5
    x[5] *= 1e-9
    for values in (graph, bits_as_floats(graph, GAINS["float32"])):
        assert list(signs_near_zero(values, x)) == [False, True, True, False, True, False]
    scale = graph["1"].scale[0]
    inner = g.BinaryGraph(tuple(replace(n, bias=n.bias + scale * 9) if n.name == "1" else n for n in graph.nodes))
    signs = np.where(inner["1"].negative, -1.0, 1.0).sum((1, 2, 3))
    assert signs_near_zero(inner, x[:1])[0] == bool((signs == -9).any())


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((0, 0, 0), ""),
        ((1, 1, 0), "1 of 60 decisions differs, from signs within rounding of zero"),
        ((2, 2, 0), "2 of 60 decisions differ, both from signs within rounding of zero"),
        ((3, 0, 3), "3 of 60 decisions differ, all from logits as high as each other"),
        (
            (3, 2, 1),
            "3 of 60 decisions differ: 2 from signs within rounding of zero, 1 from logits as high as each other",
        ),
        ((4, 0, 0), "4 of 60 decisions differ"),
    ],
)
def test_decisions_in_words(counts, text):
    names = ("differing", "differing_near_zero", "differing_ties")
    assert decisions({"samples": 60, **dict(zip(names, counts, strict=True))}) == text
    assert decisions({"samples": 60}) == ""


def test_one_wrong_class_does_not_hide_behind_the_others():
    wrong = EXPECTED.copy()
    wrong[:, 7] *= 1.001
    message = refusal(wrong)
    worst = np.abs(EXPECTED[:, 7]).argmax()
    assert "disagrees with PyTorch on 400 test images" in message and "in class 7" in message
    assert f"at image {worst}: {wrong[worst, 7]:.5g} instead of {EXPECTED[worst, 7]:.5g}" in message


def test_too_many_different_classes():
    wrong = EXPECTED.copy()
    wrong[::20] = -wrong[::20]
    assert "top-1 agreement 95.00%" in refusal(wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite(value):
    wrong = EXPECTED.copy()
    wrong[17, 3] = value
    assert "not finite" in refusal(wrong)
    assert "not finite" in refusal(wrong, wrong)
    everywhere = EXPECTED.copy()
    everywhere[:, 3] = value
    assert "in class 3" in refusal(EXPECTED, everywhere)


@pytest.mark.parametrize("shape", [(400, 1), (400, 9), (400, 10, 1, 1), (1, 10)])
def test_outputs_of_another_shape(shape):
    assert f"has shape {list(shape)}, that of PyTorch [400, 10]" in refusal(np.zeros(shape, np.float32))


@pytest.fixture(scope="module")
def exported():
    """An ONNX model of a real network, images and PyTorch's logits of them."""
    torch.manual_seed(0)
    model = build_model("resnet20", classes=10)
    x = images(100, 3, 16, 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model(x)
    expected = outputs(model.eval(), x).numpy()
    return to_onnx(simplify(trace(model, (3, 16, 16))), {}), x.numpy(), expected


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layer1.0.conv1.packed", 0x80),
        ("layer2.1.conv2.packed", 0x01),
        ("layer3.2.conv2.packed", 0x10),
        ("conv1.weight", 1.01),
        ("layer1.0.conv1.scale", 1.01),
        ("layer2.0.downsample.0.bias", 0.99),
        ("logits.weight", 1.01),
        ("logits.bias", 1.01),
    ],
)
def test_one_changed_value_is_noticed(exported, name, change, tmp_path):
    content, x, expected = exported
    path = tmp_path / "model.onnx"
    labels = np.zeros(len(x), int)

    def check(model):
        path.write_bytes(model.SerializeToString())
        return require_agreement("model.onnx", open_model(path)(x), expected, labels, far)

    model = onnx.load_from_string(content)
    check(model)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    if isinstance(change, int):
        values.flat[0] ^= change
    else:
        values.flat[np.abs(values).argmax()] *= change
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    with pytest.raises(FsgError, match=r"model\.onnx disagrees with PyTorch on 100 test images: .* class \d+; worst"):
        check(model)


def test_where_rounding_flips_signs_everywhere_the_values_within_decide():
    expected = np.random.default_rng(0).standard_normal((80, 5)).astype(np.float32)
    labels, logits = expected.argmax(1), expected.copy()
    logits[10:] += 0.1  # much more than the limit, and on most images
    asked = []

    def inside():
        asked.append(1)
        return 7

    def near(chosen):
        return chosen >= 10

    result = require_agreement("model", logits, expected, labels, near, inside)
    assert result["flipped"] == [54, 64] and asked == [1]
    assert require_agreement("model", logits, expected, labels, near)["flipped"] == [54, 64]  # the clean ones will do
    assert require_agreement("model", logits, expected, labels, lambda chosen: chosen >= 0, inside)["flipped"] == [
        64,
        64,
    ]
    for near_zero, within in (
        (lambda chosen: chosen >= 11, inside),  # image 10 is clean, and differs
        (lambda chosen: chosen < 0, inside),
        (lambda chosen: chosen >= 0, None),  # nobody can say
        (lambda chosen: chosen >= 0, lambda: 0),
    ):
        with pytest.raises(FsgError, match="model disagrees with PyTorch on 80 test images"):
            require_agreement("model", logits, expected, labels, near_zero, within)

    def wrong():
        raise FsgError("model differs first at conv")

    with pytest.raises(FsgError, match="first at conv"):
        require_agreement("model", logits, expected, labels, near, wrong)
