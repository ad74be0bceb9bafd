"""Agreement with PyTorch: what must pass, and what must not."""

import numpy as np
import onnx
import pytest
import torch
from networks import images, outputs
from torch import nn

from fsg import FsgError
from fsg.export.formats.onnx import to_onnx
from fsg.export.passes import simplify
from fsg.export.trace import trace
from fsg.export.verify import compare, require_agreement
from fsg.runtime.model.session import open_model
from fsg.training.networks.resnet import build_model

RNG = np.random.default_rng(0)
EXPECTED = RNG.standard_normal((400, 10)).astype(np.float32)
LABELS = RNG.integers(0, 10, 400)


def refusal(logits, expected=EXPECTED):
    with pytest.raises(FsgError) as caught:
        require_agreement("model.onnx", logits, expected, LABELS)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model.onnx")
    return str(caught.value)


def test_compare():
    expected = np.eye(4, dtype=np.float32)
    logits = expected.copy()
    logits[3] = [0, 0, 2, 0.5]
    assert compare(logits, expected, np.array([0, 1, 0, 3])) == {
        "samples": 4,
        "top1_agreement": 0.75,
        "median_abs_diff": 0.0,
        "max_abs_diff": 2.0,
        "accuracy": 0.5,
        "torch_accuracy": 0.75,
    }


def test_rounding_passes():
    noisy = EXPECTED + RNG.normal(0, 1e-6, EXPECTED.shape).astype(np.float32)
    result = require_agreement("model.onnx", noisy, EXPECTED, LABELS)
    assert result == compare(noisy, EXPECTED, LABELS) and 0 < result["median_abs_diff"] < 1e-5
    assert require_agreement("model.onnx", noisy * 1e4, EXPECTED * 1e4, LABELS)["samples"] == 400


def test_a_few_flipped_signs_pass():
    flipped = EXPECTED.copy()
    flipped[::50] += RNG.standard_normal((8, 10)).astype(np.float32)
    assert require_agreement("model.onnx", flipped, EXPECTED, LABELS)["max_abs_diff"] > 1


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
    assert f"has shape {list(shape)}, PyTorch's [400, 10]" in refusal(np.zeros(shape, np.float32))


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
        return require_agreement("model.onnx", open_model(path)(x), expected, labels)

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
