"""Reading a model: every layer means in the graph what it computes in PyTorch, or is refused by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import assert_same, exact, images, outputs, random_network, result
from torch import Tensor, nn

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.trace import trace
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear
from fsg.training.networks.quantizers import WEIGHT_QUANTIZERS
from fsg.training.networks.resnet import build_model

FLAT = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class Function(nn.Module):
    """A model whose forward is a plain function, of its layer too if it has one."""

    def __init__(self, function, layer=None):
        super().__init__()
        self.function = function
        self.layer = layer

    def forward(self, x):
        return self.function(x) if self.layer is None else self.function(x, self.layer)


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        ([nn.Conv2d(6, 5, 3, 2, 1)], [g.Conv]),
        ([nn.Conv2d(6, 4, (3, 1), (1, 2), (0, 2), (2, 1), groups=2, bias=False)], [g.Conv]),
        ([BinaryActivation()], [g.Sign]),
        ([BinaryActivation(), BinaryConv2d(6, 5, 3, 2, 1)], [g.Sign, g.BinaryConv]),
        ([BinaryConv2d(6, 4, (1, 3), (2, 1), (0, 2), groups=2, padding_value=0)], [g.BinaryConv]),
        ([BinaryConv2d(6, 5, 3, padding=2, dilation=2, padding_value=-1, quantizer="scaled-sign")], [g.BinaryConv]),
        ([nn.BatchNorm2d(6)], [g.Affine]),
        ([nn.BatchNorm2d(6, affine=False)], [g.Affine]),
        ([nn.ReLU()], [g.Elementwise]),
        ([nn.MaxPool2d(2)], [g.MaxPool]),
        ([nn.MaxPool2d((3, 2), (1, 2))], [g.MaxPool]),
        ([nn.ReLU(), nn.MaxPool2d(3, 2, 1)], [g.Elementwise, g.MaxPool]),
        ([nn.MaxPool2d((2, 4), (2, 1), (0, 2))], [g.MaxPool]),
        ([nn.MaxPool2d((3, 2), 2, ceil_mode=True)], [g.MaxPool]),
        ([nn.AvgPool2d((3, 2), (1, 2))], [g.AveragePool]),
        ([nn.AvgPool2d(3, 2, 1)], [g.AveragePool]),
        ([nn.AdaptiveAvgPool2d((3, 7))], [g.AveragePool]),
        ([nn.ReLU(), nn.AdaptiveAvgPool2d((9, 8))], [g.Elementwise]),
        ([nn.AdaptiveAvgPool2d((1, None))], [g.AveragePool]),
        ([nn.MaxPool2d(4), nn.Flatten(), nn.Linear(24, 5)], [g.MaxPool, g.Reshape, g.Dense]),
        ([Function(lambda x: F.max_pool2d(x, 3, 2, padding=1))], [g.MaxPool]),
        ([Function(lambda x: F.avg_pool2d(x, (3, 2), 2))], [g.AveragePool]),
        ([Function(lambda x: F.adaptive_avg_pool2d(F.dropout(x, 0.5, False), (1, 1)))], [g.Reduce]),
        ([Function(lambda x: x.mean((2, 3)))], [g.Reduce]),
        ([Function(lambda x: torch.mean(x, [2, 3], keepdim=True))], [g.Reduce]),
        ([Function(lambda x: x.view(x.size(0), -1))], [g.Reshape]),
        ([Function(lambda x: x.reshape(x.shape[0], x.shape[1] * 72))], [g.Reshape]),
        ([Function(lambda x: torch.cat([x, x, F.relu(x)], dim=1))], [g.Elementwise, g.Concat]),
        ([nn.AdaptiveAvgPool2d(1)], [g.Reduce]),
        ([nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()], [g.Reduce, g.Reshape]),
        ([*FLAT, nn.Linear(6, 5)], [g.Reduce, g.Reshape, g.Dense]),
        ([*FLAT, nn.Linear(6, 5, bias=False)], [g.Reduce, g.Reshape, g.Dense]),
        ([*FLAT, nn.BatchNorm1d(6)], [g.Reduce, g.Reshape, g.Affine]),
        ([*FLAT, BinaryLinear(6, 5)], [g.Reduce, g.Reshape, g.BinaryDense]),
        ([*FLAT, BinaryLinear(6, 5, False, quantizer="scaled-sign")], [g.Reduce, g.Reshape, g.BinaryDense]),
        ([nn.Identity(), nn.ReLU(), nn.Dropout(), nn.Dropout2d(), nn.Identity()], [g.Elementwise]),
        ([Function(torch.relu), Function(F.relu), Function(lambda x: x.relu())], [g.Elementwise] * 3),
        ([Function(lambda x: x + x)], [g.Arithmetic]),
        ([Function(lambda x: torch.add(x, other=x))], [g.Arithmetic]),
        ([FLAT[0], Function(lambda x: torch.flatten(x, 1))], [g.Reduce, g.Reshape]),
        ([FLAT[0], Function(lambda x: x.flatten(1))], [g.Reduce, g.Reshape]),
    ],
)
def test_layers_compute_what_they_compute_in_pytorch(layers, kinds):
    model, x = exact(nn.Sequential(*layers)), images(5, 6, 9, 8)
    graph = trace(model, (6, 9, 8))
    assert [type(node) for node in graph.nodes] == [g.Input, *kinds]
    assert_same(result(graph, x), outputs(model, x))
    assert graph.nodes[-1].shape == (1, *outputs(model, x).shape[1:])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("one_bit", [True, False])
def test_random_networks(seed, one_bit):
    model, shape = random_network(seed, one_bit=one_bit)
    x = images(3, *shape, seed=seed)
    assert_same(result(trace(model, shape), x), outputs(model, x))


@pytest.mark.parametrize("bits", [1, 32])
def test_the_real_networks_with_their_layers_names(bits):
    model = exact(build_model("resnet20", classes=5, activation_bits=bits, first_last="binary"))
    graph = trace(model, (3, 16, 16))
    assert {node.name for node in graph.nodes} >= {"conv1", "layer1.0.conv1", "layer3.2.bn2", "fc"}
    assert graph.count(g.BinaryConv) == 19 + (2 if bits == 32 else 0)
    x = images(2, 3, 16, 16)
    np.testing.assert_allclose(result(graph, x), outputs(model, x), rtol=1e-4)


@pytest.mark.parametrize("quantizer", WEIGHT_QUANTIZERS)
def test_weights_of_zero_keep_their_quantised_sign(quantizer):
    model = nn.Sequential(BinaryConv2d(4, 3, 3, quantizer=quantizer)).eval()
    with torch.no_grad():
        model[0].weight[:, 0] = 0
        model[0].weight[1] = 0
    x = images(2, 4, 5, 5)
    assert_same(result(trace(model, (4, 5, 5)), x), outputs(model, x))


@pytest.mark.parametrize("quantizer", WEIGHT_QUANTIZERS)
def test_signs_and_scale_are_those_of_the_quantised_weights(quantizer):
    torch.manual_seed(0)
    model = nn.Sequential(BinaryActivation("ede"), BinaryConv2d(4, 5, 3, quantizer=quantizer)).eval()
    with torch.no_grad():
        model[1].weight += 0.05  # so that standardising moves signs
    for module in model:
        module.sharpness = 7.0  # as in the midst of a training
    graph = trace(model, (4, 6, 7))
    conv = graph.nodes[-1]
    weight = model[1].binary_weight().detach().numpy()
    np.testing.assert_array_equal(conv.signs() * conv.scale[:, None, None, None], weight)
    x = torch.randn(3, 4, 6, 7)
    assert_same(result(graph, x), outputs(model, x))


def test_weights_in_channels_last_order():
    model = exact(nn.Sequential(nn.Conv2d(3, 4, 3), BinaryConv2d(4, 5, 3))).to(memory_format=torch.channels_last)
    x = images(2, 3, 7, 7)
    assert_same(result(trace(model, (3, 7, 7)), x), outputs(model, x))


# --- shapes of networks -----------------------------------------------------------------------------------


class Reused(nn.Module):
    """One convolution called three times, beside modules whose names fx would give to the later calls."""

    def __init__(self):
        super().__init__()
        self.conv = BinaryConv2d(4, 4, 3, padding=1)
        self.conv_1 = nn.BatchNorm2d(4)
        self.add = nn.ReLU()
        self.image = nn.BatchNorm2d(4)

    def forward(self, image):
        y = self.conv_1(self.conv(image))
        return self.conv(self.image(self.add(self.conv(y) + image) + y))


def test_a_module_called_again_gets_a_name_of_its_own():
    model, x = exact(Reused()), images(3, 4, 6, 6)
    graph = trace(model, (4, 6, 6))
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) == 9 and {"conv", "conv_1"} < set(names)
    assert graph.count(g.BinaryConv) == 3
    assert_same(result(graph, x), outputs(model, x))


class Unused(nn.Module):
    """Computes more than it returns: something exportable after the result, something that is not before it."""

    def __init__(self):
        super().__init__()
        self.result, self.later, self.softmax = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Softmax(1)

    def forward(self, x: Tensor, unused: Tensor | None = None) -> Tensor:
        self.softmax(x)
        result = self.result(x)
        self.later(result)
        return result


def test_what_the_output_does_not_need_is_left_out():
    model, x = exact(Unused()), images(3, 3, 6, 6)
    graph = trace(model, (3, 6, 6))
    assert [node.name for node in graph.nodes] == ["image", "result"]
    assert_same(result(graph, x), outputs(model, x))


@pytest.mark.parametrize("relu", [nn.ReLU(inplace=True), lambda y: F.relu(y, inplace=True), lambda y: F.relu(y, True)])
def test_what_reads_a_value_that_was_overwritten_reads_the_new_one(relu):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.id = nn.Conv2d(3, 4, 3), relu, nn.Identity()

        def forward(self, x):
            y = self.conv(x)
            z = self.id(y)
            return self.relu(y) + z + y

    model, x = exact(InPlace()), images(3, 3, 6, 6)
    assert_same(result(trace(model, (3, 6, 6)), x), outputs(model, x))


def test_the_model_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model.train(), (3, 6, 6))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    x = images(2, 3, 6, 6)
    assert_same(result(graph, x), outputs(model.eval(), x))


# --- refusals ---------------------------------------------------------------------------------------------


def refusal(model: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> str:
    with pytest.raises(FsgError) as caught:
        trace(model, shape)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, return_indices=True),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.Softmax(0),
        nn.Flatten(0, 1),
        nn.Upsample(scale_factor=1.3),
        nn.Upsample(scale_factor=2, mode="bicubic"),
    ],
    ids=repr,
)
def test_a_layer_without_counterpart_is_named(layer):
    model = nn.Sequential()
    model.stage = nn.Sequential(nn.Identity(), layer)
    assert f"cannot export stage.1 ({type(layer).__name__}): " in refusal(model)


@pytest.mark.parametrize(
    ("layer", "advice"),
    [
        (nn.LocalResponseNorm(2), "use BatchNorm2d"),
        (nn.Hardshrink(), "hardshrink in the forward of stage.1: nothing in .tflite and .onnx is known for it"),
        (nn.Unfold(2), "use a convolution, or slices"),
    ],
    ids=repr,
)
def test_a_layer_without_a_rule_is_named_with_advice(layer, advice):
    model = nn.Sequential()
    model.stage = nn.Sequential(nn.Identity(), layer)
    assert advice in refusal(model)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.mean(x), "mean"),
        (lambda x: torch.cat([x, x]), "cat"),
        (lambda x: F.dropout(x, 0.5), "dropout"),
        (lambda x: torch.flatten(x), "flatten"),
        (lambda x: F.max_pool2d(x, 2, dilation=2), "max_pool2d"),
        (lambda x: x[1:], "getitem"),
        (lambda x: x[x > 0], "getitem"),
        (lambda x: x.permute(1, 0, 2, 3), "permute"),
        (lambda x: torch.einsum("nchw,nchw->nc", x, x), "einsum"),
        (lambda x: x.flatten(1) @ x.flatten(1).T, "T"),
        (lambda x: x.flatten(1)[:, :2] @ x.flatten(1)[:, :2], "matmul"),
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: x.std((2, 3)), "std"),
        (lambda x: F.normalize(x, p=1), "normalize"),
        (lambda x: x.sort(1)[0], "sort"),
        (lambda x: x.roll(1), "roll"),
        (lambda x: 2**x, "rpow"),
        (lambda x: x**1.5, "pow"),
        (lambda x: x // 2, "floordiv"),
        (lambda x: x if x.sum() > 0 else -x, "sum"),
        (lambda x: x if x.sum((1, 2, 3))[:] > 0 else -x, "bool"),
        (lambda x: x * x.mean().item(), "mean"),
        (lambda x: x * float(x[0, 0, 0, 0]), "getitem"),
        (lambda x: torch.from_numpy(x.numpy()), "numpy"),
    ],
)
def test_a_function_without_counterpart_is_named_with_its_place(function, name):
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), Function(function)))
    assert f"cannot export {name}" in refusal(model)
    assert "in the forward of 1.1:" in refusal(model)
    assert "in the forward of the model:" in refusal(Function(function))


def test_what_changes_under_another_view_is_not_read_as_it_was():
    def function(x):
        y = x * 2
        y[:, 1:].relu_()
        return y + 1

    assert "it reads what was changed in place through another view" in refusal(Function(function))

    def written(x):
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, 1:]
        return y

    assert "setitem in the forward of the model: write values with torch.where" in refusal(Function(written))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.no_such_method, "no_such_method"),
        (lambda x: (torch.relu(x), x), "its output must be one tensor"),
        (lambda x: {"logits": torch.relu(x)}, "its output must be one tensor"),
        (lambda x: None, "its output must be one tensor"),
        (lambda x: x, "its output must be one tensor"),
    ],
)
def test_forward_passes_that_are_no_graph(function, message):
    with pytest.raises(FsgError, match=message):
        trace(Function(function), (3, 8, 8))


def test_two_inputs():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    assert "more than one input" in refusal(Two())


def test_images_that_do_not_fit_the_model(capfd):
    message = refusal(nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(1, 2, 3))))
    assert message.startswith("cannot run 1.0 on 2 images of shape [3, 8, 8]: ")
    assert "size" in refusal(nn.Sequential(nn.MaxPool2d(9)))
    assert capfd.readouterr().err == ""


def test_weights_that_are_not_one_bit(monkeypatch):
    model = nn.Sequential(nn.Identity(), BinaryConv2d(3, 4, 3))
    for bad in (torch.full((4, 3, 3, 3), float("nan")), torch.zeros(4, 3, 3, 3), torch.randn(4, 3, 3, 3)):
        monkeypatch.setattr(BinaryConv2d, "binary_weight", lambda self, bad=bad: bad)
        assert "cannot export 1 (BinaryConv2d): its quantised weights are not +c or -c" in refusal(model)
