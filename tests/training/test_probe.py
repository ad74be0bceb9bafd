"""A network whose code was changed after its training is noticed wherever its run is opened."""

import sys

import pytest
import torch
from torch import nn

from fsg import FsgError
from fsg.training.checkpoint import read_checkpoint
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d
from fsg.training.networks.resnet import build_model
from fsg.training.probe import probe, require_same

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, STRIDE_A, 1), nn.Conv2d(8, 8, 3, STRIDE_B, 1)
        self.norm, self.fc, self.relu = nn.BatchNorm2d(8), nn.Linear(8, num_classes), nn.ReLU()

    def forward(self, x):
        x = self.a(x)
        y = self.norm(self.b(self.relu(x)))
        y = RESULT
        return self.fc(y.mean((2, 3)))

def make(num_classes):
    return Net(num_classes)
"""
PARTS = {"STRIDE_A": "2", "STRIDE_B": "1", "RESULT": "self.relu(y + x)"}
CHANGES = [
    {"RESULT": "y + x"},
    {"RESULT": "self.relu(y)"},
    {"STRIDE_A": "1", "STRIDE_B": "2", "RESULT": "self.relu(y + x[..., ::2, ::2])"},
]
SETTINGS = ["--model", "mynet:make", "--method", "ste", "--epochs", "1", "--batch-size", "16", "--no-shortcut"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the user's model as if it were not imported yet, with some parts changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(changed):
        text = NET
        for name, part in {**PARTS, **changed}.items():
            text = text.replace(name, part)
        (tmp_path / "mynet.py").write_text(text)
        monkeypatch.delitem(sys.modules, "mynet", raising=False)

    yield write
    sys.modules.pop("mynet", None)


def test_changed_code_is_noticed_wherever_the_run_is_opened(write, fsg, refused, tiny_npz, tmp_path):
    write({})
    code, _, err = fsg("train", *SETTINGS, "--dataset", f"npz:{tiny_npz}", "--out", "run")
    assert code == 0, err
    before = (tmp_path / "run/checkpoint.pt").read_bytes()
    commands = (["export", "run"], ["eval", "run"], ["summary", "run"], ["train", "--resume", "run", "--epochs", "2"])
    for changed in CHANGES:
        for command in commands:
            write(changed)
            message = refused(*command)
            assert "mynet:make no longer computes what it did" in message and "undo that change" in message
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == before and not (tmp_path / "run/export").exists()

    for command in (["eval", "run"], ["export", "run", "--format", "onnx"], commands[-1]):
        write({})
        code, _, err = fsg(*command)
        assert code == 0, err


def test_other_data_or_code_are_noticed_by_the_recorded_accuracy(write, fsg, refused, tiny_npz):
    write({})
    code, _, err = fsg("train", *SETTINGS, "--dataset", f"npz:{tiny_npz}", "--out", "run")
    assert code == 0, err
    content = torch.load("run/checkpoint.pt", weights_only=True)
    del content["probe"]  # as earlier versions wrote it
    torch.save(content, "run/checkpoint.pt")
    assert fsg("export", "run", "--format", "onnx", "--out", "first")[0] == 0
    content["rows"][-1]["test_accuracy"] += 0.25
    torch.save(content, "run/checkpoint.pt")
    found, recorded = (f"{content['rows'][-1]['test_accuracy'] - less:.2%}" for less in (0.25, 0))
    message = refused("export", "run", "--format", "onnx", "--out", "second")
    assert f"accuracy is {found} on 40 of 40 test images" in message and f"{recorded} was recorded" in message


@pytest.mark.parametrize(
    ("found", "samples", "total", "passes"),
    [
        (0.93, 260, 260, True),
        (0.91, 260, 260, True),
        (0.89, 260, 260, False),
        (0.53, 260, 260, False),
        (0.90, 1000, 10000, True),
        (0.87, 1000, 10000, True),
        (0.84, 1000, 10000, False),
        (0.99, 1000, 10000, True),
        (0.90, 10, 10, True),
    ],
)
def test_rounding_and_the_choice_of_images_pass(found, samples, total, passes):
    from types import SimpleNamespace

    from fsg.export.pipeline import _require_recorded_accuracy

    run = SimpleNamespace(path="run", config=SimpleNamespace(dataset="data"), test_accuracy=0.93)
    if passes:
        _require_recorded_accuracy(run, found, samples, total)
    else:
        with pytest.raises(FsgError, match=rf"{found:.2%} on {samples} of {total} .*93\.00% was recorded"):
            _require_recorded_accuracy(run, found, samples, total)


def test_a_probe_changes_nothing_and_rounding_does_not_change_it():
    torch.manual_seed(1)
    model = build_model("resnet20", classes=10).train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    first = probe(model, (3, 16, 16))
    assert first is not None and first.shape == (4, 10)
    assert torch.equal(torch.random.get_rng_state(), random) and model.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    again = probe(model.to(memory_format=torch.channels_last), (3, 16, 16))
    torch.set_num_threads(threads)
    torch.testing.assert_close(again, first, rtol=1e-9, atol=1e-9)


class Single(nn.Module):
    """Computes in float32 whatever it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, x):
        return self.layer(x.float().flatten(1))


class Caching(Single):
    """Cannot be copied, for it keeps what it computed."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


def test_models_that_are_not_to_be_had_in_float64_or_not_at_all(tmp_path):
    torch.manual_seed(0)
    model = Single()
    expected = probe(model, (3, 2, 2))
    assert expected is not None
    require_same(model, (3, 2, 2), expected + 1e-6, tmp_path, "net")
    with pytest.raises(FsgError, match="the model net no longer computes"):
        require_same(model, (3, 2, 2), expected + 1e-2, tmp_path, "net")
    require_same(model, (3, 2, 2), None, tmp_path, "net")
    caching = Caching()
    caching(torch.zeros(1, 3, 2, 2))
    assert probe(caching, (3, 2, 2)) is None
    with torch.no_grad():
        model.layer.bias[:] = torch.nan
    assert probe(model, (3, 2, 2)) is None


def test_a_flipped_sign_in_one_image_is_no_change_of_code(tmp_path):
    model = nn.Sequential(BinaryActivation(), BinaryConv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    expected = probe(model, (3, 8, 8))
    assert expected is not None
    flipped = expected.clone()
    flipped[2] += 1
    require_same(model, (3, 8, 8), flipped, tmp_path, "net")
    with pytest.raises(FsgError):
        require_same(model, (3, 8, 8), -expected, tmp_path, "net")


def test_the_checkpoint_of_the_average_has_the_probe_of_the_average(write, fsg, tiny_npz, tmp_path):
    write({})
    code, _, err = fsg("train", *SETTINGS, "--dataset", f"npz:{tiny_npz}", "--ema", "0.9", "--out", "run")
    assert code == 0, err
    assert read_checkpoint(tmp_path / "run")["probe"].shape == (4, 10)
    assert fsg("eval", "run")[0] == 0
