"""Models of torchvision and of users, by name."""

import pytest
import torch
from torch import nn

from fsg import FsgError
from fsg.training.networks.binarize import float_layers
from fsg.training.networks.external import build_external, float_model
from fsg.training.networks.layers import binary_layers
from fsg.training.networks.resnet import build_model


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("resnet34", (1, 64, 64), marks=pytest.mark.slow),
        ("vgg11", (3, 32, 32)),
        pytest.param("vgg13_bn", (1, 64, 96), marks=pytest.mark.slow),
        pytest.param("alexnet", (3, 64, 64), marks=pytest.mark.slow),
        pytest.param("densenet121", (3, 64, 64), marks=pytest.mark.slow),
        ("squeezenet1_1", (1, 64, 64)),
        pytest.param("squeezenet1_1", (3, 64, 64), marks=pytest.mark.slow),
    ],
)
def test_torchvision_s_models_fit_the_data(name, shape):
    model = build_external(f"torchvision:{name}", classes=7, shape=shape)
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    assert model.eval()(x).shape == (2, 7)
    assert len(binary_layers(model)) > len(float_layers(model))


@pytest.mark.slow
def test_vgg_for_large_images_is_torchvision_s():
    model = float_model("torchvision:vgg11", classes=1000, shape=(3, 224, 224))
    assert model.classifier[0].weight.shape == (4096, 25088)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", "no classification model 'resnet19'; did you mean resnet1"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classification model"),
        ("torchvision:vgg11", r"vgg11 cannot run on images of \[3, 16, 16\]"),
        ("mynet.py:net", "name the module, not its file: --model mynet:net$"),
        ("nets/mynet.py:net", "--model mynet:net in the folder nets$"),
        ("nets/mynet:net", "--model mynet:net in the folder nets$"),
        ("nowhere_at_all:net", "there is no module nowhere_at_all in .*; run fsg in the folder that has it"),
        ("broken:net", "importing broken failed: ZeroDivisionError"),
        ("mine:missing", "mine has no 'missing'"),
        ("mine:number", "it is a int; name a function"),
        ("mine:fails", "mine:fails failed: ValueError: on purpose"),
        ("mine:text", "made a str; it must return a torch.nn.Module"),
        ("mine:two_classes", r"mine:two_classes gives \[1, 2\] for an image, but the data have 3 classes"),
        ("mine:wide", r"mine:wide cannot run on an image of shape \[3, 16, 16\]"),
    ],
)
def test_models_that_cannot_be_had(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    with pytest.raises(FsgError, match=message) as caught:
        build_external(name, classes=3, shape=(3, 16, 16))
    assert "\n" not in str(caught.value)


MINE = """
from torch import nn
from fsg.training.layers import BinaryActivation, BinaryConv2d

number = 3
def fails(num_classes): raise ValueError("on purpose")
def text(): return "net"
def layers(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
def two_classes(): return layers(3, 2)
def wide(num_classes): return layers(4, num_classes)
def net(num_classes, in_channels): return layers(in_channels, num_classes)
def binary(num_classes=3):
    conv = BinaryConv2d(4, 8, 3, quantizer="scaled-sign")
    return nn.Sequential(nn.Conv2d(3, 4, 3), BinaryActivation("clipped"), conv,
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def test_a_factory_s_model(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    model = build_external("mine:net", classes=6, shape=(1, 16, 16), quantizer="scaled-sign")
    assert set(binary_layers(model)) == {"3"} and model.get_submodule("3").quantizer == "scaled-sign"
    ready = build_external("mine:binary", classes=6, shape=(3, 16, 16), quantizer="dorefa")
    assert type(ready) is nn.Sequential and ready[2].quantizer == "scaled-sign"


def test_models_of_fsg_know_no_roles():
    assert float_layers(build_model("resnet20", classes=3)) == {}


ODD = """
import sys, threading
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

class Base(nn.Module):
    def __init__(self, num_classes, change=lambda layer: layer):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(3))
        self.b, self.norm, self.fc = change(self.b), nn.BatchNorm2d(8), nn.Linear(8, num_classes)
    def forward(self, x):
        return self.fc(self.norm(self.c(self.norm(self.b(self.norm(self.a(x)))))).mean((2, 3)))

def old_norm(num_classes): return Base(num_classes, weight_norm)
def new_norm(num_classes): return Base(num_classes, parametrizations.weight_norm)
def spectral(num_classes): return Base(num_classes, spectral_norm)
def new_spectral(num_classes): return Base(num_classes, parametrizations.spectral_norm)
def pruned(num_classes): return Base(num_classes, lambda layer: prune.l1_unstructured(layer, "weight", 0.5))
def with_(num_classes, value):
    model = Base(num_classes)
    model.extra = value
    return model
def locked(num_classes): return with_(num_classes, threading.Lock())
def generator(num_classes): return with_(num_classes, (i for i in range(3)))
def opened(num_classes): return with_(num_classes, open("/dev/null"))
def computed(num_classes): return with_(num_classes, torch.ones(2, requires_grad=True) * 2)
def exits(num_classes): sys.exit(3)
def half(num_classes): return Base(num_classes).half()
def double(num_classes): return Base(num_classes).double()
def parallel(num_classes): return nn.DataParallel(Base(num_classes))
def compiled(num_classes): return torch.compile(Base(num_classes))
def lazy(num_classes): return Base(num_classes, lambda layer: nn.LazyConv2d(8, 3, padding=1))
def hooked(num_classes):
    model = Base(num_classes)
    model.b.register_forward_hook(lambda layer, inputs, output: output * 2)
    return model
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    (tmp_path / "odd_nets.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: build_external(f"odd_nets:{name}", classes=3, shape=(3, 16, 16))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("old_norm", "the weight of b is computed, as weight_norm and pruning do; make it plain first"),
        ("pruned", "the weight of b is computed, as weight_norm and pruning do; make it plain first"),
        ("locked", "cannot copy the model .cannot pickle '_thread.lock' object"),
        ("generator", "cannot copy the model .cannot pickle 'generator' object"),
        ("opened", "cannot copy the model .cannot pickle '_io.TextIOWrapper' object"),
        ("computed", "cannot copy the model .Only Tensors created explicitly"),
        ("exits", "odd_nets:exits failed: SystemExit: 3"),
    ],
)
def test_models_that_cannot_be_copied_say_why(odd, name, message):
    with pytest.raises(FsgError, match=message) as caught:
        odd(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["new_norm", "spectral", "new_spectral", "hooked"])
def test_layers_with_more_than_a_weight_stay_float_and_say_so(odd, name):
    model = odd(name)
    assert set(binary_layers(model)) == {"c"}
    assert float_layers(model)["b"] in ("its weight is computed, as weight_norm and spectral_norm do", "its hooks")


@pytest.mark.parametrize("name", ["half", "double", "parallel", "compiled", "lazy"])
def test_models_in_wrappers_are_taken_out(odd, name):
    model = odd(name)
    assert set(binary_layers(model)) == {"b", "c"}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
