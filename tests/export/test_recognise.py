"""Binary layers and signs as people write them in plain PyTorch are found, and compute the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts

from .patterns import Do, OwnSign, TorchSign


class Binary(nn.Module):
    """Convolution, norm, sign, binary convolution, norm, sign, binary dense: the signs and weights as given."""

    def __init__(self, sign, weights, padding=0, before=None):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.weight = nn.Parameter(torch.randn(8, 6, 3, 3))
        self.dense = nn.Parameter(torch.randn(5, 8))
        self.second, self.between = nn.BatchNorm2d(8), before or nn.Identity()
        self.sign, self.weights, self.padding = sign, weights, padding

    def forward(self, x):
        x = self.sign(self.between(self.norm(self.first(x))))
        x = F.conv2d(x, self.weights(self.weight), padding=self.padding)
        x = self.sign(self.second(x).mean((2, 3)))
        return F.linear(x, self.weights(self.dense))


SIGNS = {
    "OwnSign": OwnSign.apply,
    "TorchSign": TorchSign.apply,
    "torch.sign": torch.sign,
    "x.sign()": lambda x: x.sign(),
    "where >=": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "where >": lambda x: torch.where(x > 0, 1.0, -1.0),
    "where <": lambda x: torch.where(x < 0, -1.0, 1.0),
    "where of tensors": lambda x: torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x)),
    "float of a comparison": lambda x: (x >= 0).float() * 2 - 1,
    "comparison of 0 and 1": lambda x: 2 * ((x > 0).to(x.dtype) - 0.5),
    "straight through": lambda x: x + (torch.sign(x) - x).detach(),
    "straight through, clipped": lambda x: (torch.sign(x) - x.clamp(-1, 1)).detach() + x.clamp(-1, 1),
    "half": lambda x: 0.5 * torch.sign(x),
    "minus": lambda x: -torch.where(x >= 0, 1.0, -1.0),
}
WEIGHTS = {
    "sign": torch.sign,
    "OwnSign": OwnSign.apply,
    "scaled": lambda w: torch.sign(w) * w.abs().mean(tuple(range(1, w.dim())), keepdim=True),
    "straight through": lambda w: (torch.sign(w) * 0.1 - w).detach() + w,
}


def check(model, binary, size=9):
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    model.eval()
    graph = simplify(trace(model, (3, size, size)))
    assert graph.count(g.BinaryLayer) == binary
    assert all(graph.takes_bits(node) for node in graph.nodes if isinstance(node, g.BinaryLayer))
    images = torch.randn(4, 3, size, size)
    with torch.no_grad():
        expected = model(images)
    found = run_graph(graph, images.numpy())[graph.nodes[-1].name]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    return graph


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("sign", SIGNS)
def test_every_spelling_becomes_bits(sign, weights):
    if weights == "straight through":  # such weights are rounded sums, not one c
        check(Binary(SIGNS[sign], lambda w: WEIGHTS[weights](w).sign() * 0.1), 2)
    else:
        check(Binary(SIGNS[sign], WEIGHTS[weights]), 2)


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_padding_with_a_bit(value):
    model = Binary(
        lambda x: F.pad(OwnSign.apply(x), (1, 1, 1, 1), value=value) if x.dim() == 4 else torch.sign(x), torch.sign
    )
    graph = check(model, 2)
    assert graph.count(g.Pad) == 1


def test_padding_with_zeros_stays_so():
    graph = check(Binary(OwnSign.apply, torch.sign, padding=1), 2)
    assert next(node for node in graph.nodes if isinstance(node, g.BinaryConv)).padding_value == 0


@pytest.mark.parametrize(
    "before", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0, 1), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))]
)
def test_a_sign_of_many_zeros_keeps_its_zeros(before):
    graph = check(Binary(torch.sign, torch.sign, before=before), 1)
    assert any(isinstance(node, g.Elementwise) and node.operator == "Sign" for node in graph.nodes)


@pytest.mark.parametrize("before", [nn.Sigmoid(), nn.ELU(), nn.Sequential(nn.MaxPool2d(2), nn.PReLU())])
def test_other_signs_become_bits(before):
    check(Binary(torch.sign, torch.sign, before=before), 2)


def test_weights_that_are_no_bits_stay_float():
    graph = simplify(trace(Do(lambda m, x: F.conv2d(torch.sign(x), m.w), w=torch.randn(4, 3, 3, 3)).eval(), (3, 8, 8)))
    assert graph.count(g.BinaryConv) == 0 and graph.count(g.Conv) == 1
    ternary = torch.tensor([-1.0, 0.0, 1.0]).repeat(9).view(1, 3, 3, 3)
    graph = simplify(trace(Do(lambda m, x: F.conv2d(torch.sign(x), m.w), w=ternary).eval(), (3, 8, 8)))
    assert graph.count(g.BinaryConv) == 0


def test_a_norm_behind_a_dense_layer_of_many_rows_stays():
    model = nn.Sequential(nn.Flatten(2), nn.Linear(64, 3), nn.BatchNorm1d(3))
    check(model, 0, size=8)


def test_a_gate_that_is_expanded_is_broadcast():
    model = Do(lambda m, x: x * x.mean((2, 3), keepdim=True).expand_as(x) + x.amax((2, 3), True).repeat(1, 1, 9, 9))
    assert check(model, 0).count(g.Take) == 0
    kept = Do(lambda m, x: x.mean((2, 3), keepdim=True).expand_as(x) * x.amax((2, 3), True).expand_as(x))
    assert check(kept, 0).count(g.Take) > 0


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3), (1, 1)), ((5, 3), (1, 1)), ((1, 3), (0, 1)), ((3, 5), (0, 2))]
)
@pytest.mark.parametrize("size", [(8, 9), (7, 12)])
def test_signs_padded_with_zeros_in_steps_stay_binary_in_a_tflite(stride, kernel, padding, size, tmp_path):
    weight = torch.randn(6, 5, *kernel).sign() * 0.5
    model = Do(lambda m, x: F.conv2d(torch.sign(m.c(x)), m.w, None, stride, padding), w=weight, c=nn.Conv2d(3, 5, 1))
    graph = simplify(trace(model.eval(), (3, *size)))
    content = to_tflite_direct(graph)
    assert op_counts(content)["LceBconv2d"] == graph.count(g.BinaryConv) == 1
    (tmp_path / "model.tflite").write_bytes(content)
    images = torch.randn(3, 3, *size)
    with torch.no_grad():
        expected = model(images)
    np.testing.assert_allclose(open_model(tmp_path / "model.tflite")(images.numpy()), expected, rtol=1e-5, atol=1e-5)


def test_more_zeros_than_keep_the_size_are_refused():
    model = Do(lambda m, x: F.conv2d(torch.sign(x), m.w, None, 1, 2), w=torch.ones(4, 3, 3, 3))
    with pytest.raises(FsgError, match="padding a binary convolution with 0 has to keep the image's size"):
        to_tflite_direct(simplify(trace(model.eval(), (3, 8, 8))))
