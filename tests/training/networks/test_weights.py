"""Weights as scripts save them are found, and nothing is taken that is of another network or could run code."""

import argparse
import os

import numpy as np
import pytest
import torch
from torch import nn

from fsg import FsgError
from fsg.training.networks.resnet import build_float_model, build_model
from fsg.training.networks.weights import load_initial_weights, read_weights


def weights():
    torch.manual_seed(3)
    return build_float_model("resnet20", classes=10).state_dict()


def prefixed(*prefixes):
    return {"".join(prefixes) + name: value for name, value in weights().items()}


BESIDE = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.91), "optimizer": {"state": {}}}
CASES = {
    "plain": (weights, []),
    "state_dict": (lambda: {"state_dict": weights(), **BESIDE}, ["weights found under 'state_dict'"]),
    "model": (lambda: {"model": weights(), "acc": np.float32(91)}, ["weights found under 'model'"]),
    "net": (lambda: {"net": prefixed("module.")}, ["weights found under 'net'", "names taken without 'module.'"]),
    "nested": (
        lambda: {"model_state_dict": {"model": weights()}},
        ["weights found under 'model_state_dict'", "weights found under 'model'"],
    ),
    "compiled": (
        lambda: prefixed("_orig_mod.", "module."),
        ["names taken without '_orig_mod.'", "names taken without 'module.'"],
    ),
    "lightning": (
        lambda: {"state_dict": prefixed("model."), "pytorch-lightning_version": "2"},
        ["weights found under 'state_dict'", "names taken without 'model.'"],
    ),
    "other names": (
        lambda: {"network": {"state_dict": weights()}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
        ["weights found under 'network'", "weights found under 'state_dict'"],
    ),
    "averaged": (lambda: {"ema_state_dict": weights(), **BESIDE}, ["weights found under 'ema_state_dict'"]),
    "beside a metric": (
        lambda: {"state_dict": prefixed("model.") | {"metric.total": torch.zeros(1)}},
        [
            "weights found under 'state_dict'",
            "names taken without 'model.'",
            "1 entry that is no weight left out, such as metric.total",
        ],
    ),
    "half": (lambda: {name: value.half() for name, value in weights().items()}, ["half precision made float32"]),
    "old": (lambda: {n: v for n, v in weights().items() if not n.endswith("num_batches_tracked")}, []),
    "counted": (
        lambda: weights() | {"total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)},
        ["2 entries that are no weights left out, such as total_ops"],
    ),
    "beside": (lambda: weights() | {"epoch": 3, "best": np.float64(0.5)}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_are_found_and_what_was_unwrapped_is_told(case, tmp_path):
    make, notes = CASES[case]
    torch.save(make(), tmp_path / "weights.pth")
    model = build_model("resnet20", classes=10)
    assert load_initial_weights(model, tmp_path / "weights.pth") == notes
    expected, tolerance = weights(), 1e-3 if case == "half" else 0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.data, expected[name], rtol=tolerance, atol=tolerance)
        assert parameter.dtype == torch.float32


class Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: weights() | {"more.weight": torch.zeros(1)}, "has more.weight, which the model lacks"),
        (lambda: prefixed("encoder."), "lacks conv1.weight"),
        (lambda: {"g": weights(), "d": weights()}, "not a state dict of tensors"),
        (lambda: weights() | {"fc.bias": torch.full((10,), torch.nan)}, "fc.bias holds values that are not finite"),
        (lambda: {"state_dict": {}}, "not a state dict of tensors"),
        (lambda: [torch.zeros(3)], "not a state dict of tensors"),
        (lambda: {"epoch": 3}, "not a state dict of tensors"),
        (lambda: {"state_dict": weights(), "hook": Code()}, "not a state dict that torch can read safely"),
        (lambda: nn.Linear(2, 2), "not a state dict that torch can read safely"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content(), "weights.pth")
    with pytest.raises(FsgError, match=rf"weights\.pth: .*{message}"):
        load_initial_weights(build_model("resnet20", classes=10), tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file(tmp_path):
    with pytest.raises(FsgError, match=r"teacher .*nowhere\.pth: no such file"):
        read_weights(tmp_path / "nowhere.pth", "teacher")
