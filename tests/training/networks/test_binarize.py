"""A user's model made binary: which layers, what stands around them, and that nothing else changes."""

import copy
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.export.graph import Arithmetic, BinaryConv, Elementwise, Sign
from fsg.export.trace import trace
from fsg.training.networks.binarize import ADDED_NORM, LAST, binarize, float_layers
from fsg.training.networks.constant import constant_signs, constant_signs_told
from fsg.training.networks.external import build_external
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear, binary_layers


def conv_bn(inputs, outputs, stride=1, kernel=3):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions and one shortcut, as torchvision's BasicBlock: one ReLU module for both places."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.a, self.b = conv_bn(inputs, outputs, stride), conv_bn(outputs, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = conv_bn(inputs, outputs, stride, 1) if stride > 1 else None

    def forward(self, x):
        identity = x if self.down is None else self.down(x)
        x = self.b(self.relu(self.a(x)))
        x += identity
        return self.relu(x)


class Net(nn.Module):
    """A small ResNet with all that torchvision's forward does in functions."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem, self.pool = conv_bn(3, 8), nn.MaxPool2d(3, 2, 1)
        self.one, self.two = Residual(8, 8, 1), Residual(8, 16, 2)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        x = self.two(self.one(self.pool(F.relu(self.stem(x), inplace=True))))
        x = F.dropout(x, 0.25, training=self.training)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class BiReal(nn.Module):
    """What binarize should make of Net, written by hand."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.convs = nn.ModuleList()
        for layer in (net.one.a[0], net.one.b[0], net.two.a[0], net.two.b[0]):
            conv = BinaryConv2d(layer.in_channels, layer.out_channels, 3, layer.stride, 1)
            conv.weight = layer.weight
            self.convs.append(conv)
        self.sign = BinaryActivation()

    def forward(self, x):
        net, (a, b, c, d) = self.net, self.convs
        x = net.pool(net.stem(x))
        x = net.one.a[1](a(self.sign(x))) + x
        x = net.one.b[1](b(self.sign(x))) + x
        x = net.two.a[1](c(self.sign(x))) + net.two.down(x)
        x = net.two.b[1](d(self.sign(x))) + x
        return net.fc(x.relu().mean((2, 3)))


def randomised(model, seed=0):
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(4, 3, 16, 16)


def kinds(model, shape=(3, 16, 16)):
    return [type(node) for node in trace(model, shape).nodes[1:]]


# --- W1A1 -------------------------------------------------------------------------------------------------


def test_a_residual_network_becomes_bi_real(images):
    net = randomised(Net())
    before = copy.deepcopy(net.state_dict())
    binary = binarize(net)
    assert set(binary_layers(binary)) == {"one.a.0", "one.b.0", "two.a.0", "two.b.0"}
    assert float_layers(binary) == {"stem.0": "first layer", "two.down.0": "1x1 shortcut", "fc": "last layer"}
    assert set(binary.state_dict()) == set(before)
    expected = BiReal(copy.deepcopy(net)).eval()
    torch.testing.assert_close(binary.eval()(images), expected(images))
    # The model that was given is what it was.
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert type(net.one.a[0]) is nn.Conv2d and net.one.relu.inplace and net.training


def test_it_trains_as_the_same_network_written_by_hand(images):
    net = randomised(Net())
    binary, expected = binarize(net), BiReal(copy.deepcopy(net))
    assert binary.training
    for name, module in binary.named_modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.25 and name
            module.p = 0.0
    for model in (binary, expected):
        model(images).square().sum().backward()
    torch.testing.assert_close(
        binary.get_submodule("one.a.0").weight.grad, expected.convs[0].weight.grad, rtol=1e-4, atol=1e-4
    )
    assert binary.get_submodule("two.down.0").weight.grad.abs().sum() > 0


@pytest.mark.parametrize("convert", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same(convert, images):
    binary = binarize(randomised(Net())).eval()
    other = convert(binary)
    assert torch.equal(other(images), binary(images))
    assert float_layers(other) == float_layers(binary)
    fresh = binarize(Net(), activation_gradient="clipped").eval()
    fresh.load_state_dict(binary.state_dict())
    assert torch.equal(fresh(images), binary(images))
    assert {m.gradient for m in fresh.modules() if isinstance(m, BinaryActivation)} == {"clipped"}


def test_dropout_follows_the_mode(images):
    binary = binarize(Net())
    assert not torch.equal(binary(images), binary(images))
    binary.eval()
    assert torch.equal(binary(images), binary(images))


def test_without_shortcuts_the_blocks_stay_he_s():
    found = kinds(binarize(Net(), shortcut=False))
    assert found.count(Arithmetic) == 2 and found.count(Elementwise) == 1 and found.count(BinaryConv) == 4
    assert kinds(binarize(Net())).count(Arithmetic) == 4


def test_vgg_with_biases_and_no_batch_norm(images):
    vgg = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(48, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5)),
    )
    binary = binarize(vgg)
    assert set(binary_layers(binary)) == {"2", "5", "9", "12"}
    added = {name.partition(".")[0] for name in binary.state_dict() if ADDED_NORM in name}
    assert added == {f"{name}{ADDED_NORM}" for name in ("2", "5", "9", "12")}
    for name, tensor in vgg.state_dict().items():
        assert torch.equal(binary.state_dict()[name], tensor)
    # Only the last ReLU is left: its result is what the float classifier reads, not a sign.
    assert not any(isinstance(module, nn.ReLU) for name, module in binary.named_modules() if name != "13")
    seen = []
    for layer in binary_layers(binary).values():
        layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    binary.eval()(images)
    assert len(seen) == 4 and all(torch.equal(x.abs(), torch.ones_like(x)) for x in seen)
    assert all(0 < (x > 0).float().mean() < 1 for x in seen)  # no sign is constant
    # Dropout drops bits: zeros, where a sign behind it would have made +1 of them.
    seen.clear()
    binary.train()(images)
    assert set(seen[3].unique().tolist()) == {-2.0, 0.0, 2.0}
    # Around the one convolution that keeps its shape, and behind its bias and batch norm, is a shortcut.
    assert kinds(binary).count(Arithmetic) == 1
    y = binary.get_submodule("0")(images).sign()
    torch.testing.assert_close(
        binary.get_submodule("2")(y),
        F.conv2d(F.pad(y, (1,) * 4, value=1.0), binary.get_submodule("2").binary_weight(), vgg[2].bias),
    )


def test_bottlenecks_keep_their_block_s_shortcut():
    binary = build_external("torchvision:resnet50", classes=5, shape=(3, 64, 64))
    sums = [node for node in binary.graph.nodes if node.op == "call_function" and node.target.__name__ == "add"]
    # Every block's own, one around each 3x3 convolution without stride, and layer1.0.conv1, 64 to 64 channels.
    assert len(sums) == 16 + 13 + 1
    assert {name: why for name, why in float_layers(binary).items() if "downsample" not in name} == {
        "conv1": "first layer",
        "fc": "last layer",
    }


def test_torchvision_s_resnet18_is_bi_real_net_18():
    graph = trace(build_external("torchvision:resnet18", classes=5, shape=(3, 64, 64)), (3, 64, 64))
    assert graph.count(BinaryConv) == graph.count(Sign) == graph.count(Arithmetic) == 16
    for node in graph.nodes:
        if isinstance(node, Sign):  # what is signed is what the next sum adds: a shortcut around every convolution
            readers = {type(reader) for reader in graph.users(node.inputs[0])}
            strided = any(name in graph.users(node.name)[0].name for name in ("2.0.conv1", "3.0.conv1", "4.0.conv1"))
            assert (Arithmetic in readers) != strided


# --- rules ------------------------------------------------------------------------------------------------


def test_layers_kept_by_name():
    binary = binarize(Net(), keep_float=["two.*", "one.b.0"])
    assert set(binary_layers(binary)) == {"one.a.0"}
    assert float_layers(binary)["two.a.0"] == "kept by 'two.*'"
    with pytest.raises(FsgError, match=r"no layer is called 'three\.\*'; layers are stem\.0, one\.a\.0"):
        binarize(Net(), keep_float=["three.*"])


def test_first_and_last_on_request(images):
    binary = binarize(Net(), first_last="binary")
    assert set(binary_layers(binary)) == {"stem.0", "one.a.0", "one.b.0", "two.a.0", "two.b.0", "fc"}
    assert isinstance(binary.get_submodule("fc"), BinaryLinear) and binary.get_submodule("fc").role == LAST
    assert not kinds(binary).count(Elementwise)
    assert binary(images).shape == (4, 5)


def test_only_the_weights(images):
    net = randomised(Net())
    binary = binarize(net, activation_bits=32, quantizer="scaled-sign").eval()
    assert "two.down.0" in binary_layers(binary) and not any(isinstance(m, BinaryActivation) for m in binary.modules())
    expected = copy.deepcopy(net).eval()
    with torch.no_grad():
        for name, layer in binary_layers(binary).items():
            assert layer.padding_value == 0
            expected.get_submodule(name).weight.copy_(layer.binary_weight())
    torch.testing.assert_close(binary(images), expected(images))


def test_grouped_and_unusual_layers_stay_float():
    binary = binarize(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)),
            *(
                nn.ReLU6(),
                nn.Conv2d(8, 8, 1),
                nn.BatchNorm2d(8),
                nn.ReLU6(),
                nn.Conv2d(8, 8, 3, padding_mode="circular"),
            ),
            *(nn.Conv2d(8, 8, 2, padding="same"), nn.ConvTranspose2d(8, 8, 2), nn.Flatten(), nn.Linear(128, 5)),
        )
    )
    assert set(binary_layers(binary)) == {"6"}
    assert [float_layers(binary)[name] for name in ("3", "9", "10", "11")] == [
        "grouped convolution",
        *("its padding", "its padding", "no binary ConvTranspose2d"),
    ]
    assert isinstance(binary.get_submodule("2"), nn.ReLU6) and isinstance(binary.get_submodule("8"), nn.ReLU6)
    with pytest.raises(AttributeError):  # only the one that would have been signed is gone
        binary.get_submodule("5")


class Shared(nn.Module):
    """One convolution called twice, a value that is overwritten and read again, and an early sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.bn(self.conv(x)).relu_()
        z = x.add_(1.0)
        return self.fc((self.bn(self.conv(y)) + x + z).mean((2, 3)))


def test_in_place_steps_and_layers_that_are_called_twice(images):
    net = randomised(Shared())
    frozen = binarize(net, activation_bits=32, keep_float=["stem"], quantizer="scaled-sign").eval()
    with torch.no_grad():
        net.conv.weight.copy_(frozen.get_submodule("conv").binary_weight())
        torch.testing.assert_close(frozen(images), net.eval()(images))
    binary = binarize(net)
    assert set(binary_layers(binary)) == {"conv"} and binary(images).shape == (4, 5)


class DropPath(nn.Module):
    """As people write it."""

    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, 1) < 0.5) / 0.5


def test_paths_that_are_dropped_in_training_stay(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), DropPath(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(576, 2))
    binary = binarize(net, shortcut=False)
    assert set(binary_layers(binary)) == {"2"}
    assert torch.equal(binary.eval()(images), binary.eval()(images))
    torch.manual_seed(0)
    first, second = binary.train()(images), binary.train()(images)
    assert not torch.equal(first, second)
    assert kinds(binary.eval()).count(Sign) == 1


# --- refusals ---------------------------------------------------------------------------------------------


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.one, self.two = function, nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, other=None):
        return self.function(self, x, other)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x, _: self.two(x) if x.sum() > 0 else x, "cannot be traced"),
        (lambda self, x, _: self.two(self.one(x)) if self.training else self.one(x), "differs from evaluation at two"),
        (lambda self, x, other: self.one(x) + other, "more than one input"),
        (lambda self, x, _: self.two(self.one(x)), "no layer may become binary .one: first layer, two: last layer"),
        (lambda self, x, _: x * 2, "no layer may become binary .it has none"),
    ],
)
def test_models_that_cannot_become_binary(function, message):
    with pytest.raises(FsgError, match=message) as caught:
        binarize(Function(function))
    assert "\n" not in str(caught.value)


def test_unknown_settings():
    for options in ({"activation_bits": 2}, {"first_last": "both"}, {"quantizer": "x"}, {"activation_gradient": "x"}):
        with pytest.raises(FsgError, match="unknown"):
            binarize(Net(), **options)


# --- values that never change sign ------------------------------------------------------------------------


class Activated(nn.Module):
    """Convolution, batch norm, some function, convolution."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.last = nn.Conv2d(8, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x):
        x = self.inner(self.function(self.norm(self.first(x))))
        return self.last(x.mean((2, 3)))


class Clamped(nn.Module):
    def forward(self, x):
        return torch.clip(x, 0.0, 6.0)


ONE_SIDED = {
    "Sigmoid": nn.Sigmoid(),
    "Softplus": nn.Softplus(),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Threshold": nn.Threshold(0.1, 0.0),
    "Hardtanh": nn.Hardtanh(0, 4),
    "ReLU6": nn.ReLU6(inplace=True),
    "clip in a module": Clamped(),
    "relu_": torch.relu_,
    "threshold_": lambda x: F.threshold_(x, 0.0, 0.0),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(0, 1),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "sigmoid": lambda x: torch.sigmoid(x),
    "exp": lambda x: x.exp(),
    "maximum": lambda x: F.softplus(F.max_pool2d(x, 2)),
}


@pytest.mark.parametrize("name", ONE_SIDED)
def test_functions_that_are_never_negative_do_not_stand_before_a_sign(name, images):
    net = Activated(ONE_SIDED[name])
    binary = binarize(net, shortcut=False)
    assert constant_signs(binary, images) == {}
    plain = binarize(Activated((lambda x: F.max_pool2d(x, 2)) if name == "maximum" else nn.Identity()), shortcut=False)
    plain.load_state_dict(binary.state_dict())
    assert torch.equal(binary.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("function", [nn.ELU(), nn.GELU(), nn.Tanh(), nn.Hardtanh(), nn.SiLU(), lambda x: x + 8])
def test_other_functions_stay(function, images):
    net = binarize(Activated(function), shortcut=False)
    assert any(node.target in ("function", operator.add) for node in net.graph.nodes)


@pytest.mark.parametrize(
    ("function", "bit"),
    [(lambda x: x * x, 1), (lambda x: x.abs() + 1, 1), (lambda x: F.elu(x) + 1, 1), (F.logsigmoid, -1)],
)
def test_signs_that_stay_constant_are_found_and_told(function, bit, images):
    net = binarize(Activated(function), shortcut=False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(5)
    found = constant_signs(net, images)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.manual_seed(5)))
    assert found == {"inner_sign": bit}
    assert f"inner_sign ({bit:+d})" in constant_signs_told(found)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training == Activated(function).training


def test_binary_layers_of_people_s_own_are_watched_too(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), BinaryActivation(), BinaryConv2d(4, 4, 3))
    assert constant_signs(net, images) == {"2": 1}
    assert constant_signs(nn.Sequential(nn.BatchNorm2d(3), BinaryActivation()), images) == {}
    assert constant_signs_told({}) == ""
    assert "s0 (+1), s1 (+1), s2 (+1) and 2 more" in constant_signs_told({f"s{i}": 1 for i in range(5)})
