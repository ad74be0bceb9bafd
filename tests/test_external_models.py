"""Models that are not fsg's own, through the command line: torchvision's and a user's factory."""

import json
import sys

import numpy as np
import pytest

FACTORY = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes),
    )
"""


NARROW_VGG = """
from torch import nn
from fsg.training.data.vision import import_torchvision

def net(num_classes):
    vgg = import_torchvision().models.vgg
    widths = [8, "M", 8, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"]
    model = vgg.VGG(vgg.make_layers(widths, batch_norm=True), num_classes)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier[0], model.classifier[3] = nn.Linear(64, 32), nn.Linear(32, 32)
    model.classifier[6] = nn.Linear(32, num_classes)
    return model
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Handwritten 0, 1 and 2 in colour as a folder of 64x64 PNG files: 48 of each for training, 24 for testing."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder, bunch = tmp_path_factory.mktemp("pictures"), load_digits()
    for label in range(3):
        drawn = bunch.images[bunch.target == label]
        for part, chosen in (("train", drawn[:48]), ("test", drawn[48:72])):
            (folder / part / f"digit{label}").mkdir(parents=True)
            for number, image in enumerate(chosen):
                colours = np.stack([image * 15, image * 12, 255 - image * 15], -1).astype(np.uint8)
                path = folder / part / f"digit{label}" / f"{number}.png"
                Image.fromarray(colours).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return folder


def whole_way(fsg, model, data, layers, *settings):
    """Trains into runs/net, exports, tests and measures; every step must agree with the one before it."""
    common = ["--method", "ste", "--batch-size", "16", "--threads", "1", "--out", "runs/net"]
    code, out, err = fsg("train", "--model", model, "--dataset", data, *common, *settings)
    assert code == 0, err
    code, _, err = fsg("export", "runs/net", "--format", "tflite", "--format", "onnx")
    assert code == 0, err
    with open("runs/net/export/report.json") as file:
        report = json.load(file)
    assert report["model"] == model and report["layers"] == layers
    accuracies = [
        json.loads(fsg("eval", target, "--json")[1])["accuracy"]
        for target in ("runs/net", "runs/net/export/model.tflite", "runs/net/export/model.onnx")
    ]
    assert max(accuracies) - min(accuracies) <= 0.03
    code, out, _ = fsg("bench", "runs/net/export/model.tflite", "--runs", "2", "--json", "-")
    assert code == 0 and json.loads(out)[0]["latency_ms"]["p50"] > 0
    return report


@pytest.mark.slow
def test_torchvision_from_training_to_measurement(fsg, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = {"bitwise": 16, "float": 5}
    report = whole_way(fsg, "torchvision:resnet18", f"folder:{pictures}", layers, "--epochs", "1")
    assert report["artefacts"][0]["ops"]["LceBconv2d"] == 16
    _, out, _ = fsg("summary", "runs/net")
    assert "first layer" in out and "last layer" in out


def test_a_narrow_vgg11_bn_from_training_to_measurement(fsg, pictures, tmp_path, monkeypatch):
    """What the test above does; torchvision's own has 129 million weights."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "narrow_vgg", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "narrow_vgg.py").write_text(NARROW_VGG)
    layers = {"bitwise": 9, "float": 2}
    report = whole_way(fsg, "narrow_vgg:net", f"folder:{pictures}", layers, "--epochs", "1")
    assert report["artefacts"][0]["ops"]["LceBconv2d"] == 9
    _, out, _ = fsg("summary", "runs/net")
    assert "first layer" in out and "last layer" in out


def test_a_factory_of_the_user(fsg, digits_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(FACTORY)
    whole_way(fsg, "mynet:net", f"npz:{digits_npz}", {"bitwise": 2, "float": 2}, "--epochs", "2")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "mynet")
    for command in ("eval", "export", "summary"):
        code, _, err = fsg(command, tmp_path / "runs/net")
        assert code == 2 and "there is no module mynet" in err and err.count("\n") == 1


def test_a_run_folder_s_name_has_no_colon(tmp_path, monkeypatch):
    from fsg.training.config import Config
    from fsg.training.folder import unused_folder

    monkeypatch.chdir(tmp_path)
    assert unused_folder(Config(model="torchvision:vgg11")).name == "torchvision-vgg11-digits-fsg"


def test_initial_weights_of_another_number_of_classes(tmp_path):
    import torch

    from fsg import FsgError
    from fsg.training.networks.external import build_external, float_model
    from fsg.training.networks.weights import load_initial_weights

    source = float_model("torchvision:resnet18", classes=8, shape=(3, 64, 64)).state_dict()
    torch.save(source, tmp_path / "weights.pth")
    for classes in (8, 3):
        model = build_external("torchvision:resnet18", classes=classes, shape=(3, 64, 64))
        load_initial_weights(model, tmp_path / "weights.pth")
        same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, source[name])}
        assert set(source) - same == (set() if classes == 8 else {"fc.weight", "fc.bias"})
    with pytest.raises(FsgError, match=r"lacks layer1\.0\.conv3"):
        load_initial_weights(
            build_external("torchvision:resnet50", classes=8, shape=(3, 64, 64)), tmp_path / "weights.pth"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model", "torchvision:resnet19"], "did you mean resnet1"),
        (["train", "--model", "nowhere_at_all:net"], "there is no module nowhere_at_all"),
        (["summary", "torchvision:resnet19"], "no classification model"),
        (["summary", "torchvision:resnet18", "--shape", "3,64"], "give channels, height and width"),
        (["summary", "torchvision:resnet18", "--shape", "big"], "--shape big: give numbers"),
    ],
)
def test_bad_models_are_one_line_and_leave_nothing(fsg, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = fsg(*arguments)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_a_model_that_cannot_learn_is_refused(fsg, digits_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frozen_nets.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()\n"
        "    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
        "    return model.requires_grad_(False)\n"
    )
    code, _, err = fsg("train", "--model", "frozen_nets:net", "--dataset", f"npz:{digits_npz}")
    assert code == 2 and "all of its parameters are frozen" in err and err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_summary_of_a_model_by_name(fsg):
    code, out, _ = fsg("summary", "torchvision:resnet18", "--shape", "3,64,64", "--classes", "4")
    assert code == 0 and "layer2.0.downsample.0" in out and "1x1 shortcut" in out and "10,985,472" in out
