"""What LCE's converter silently gets wrong, or makes float of: files are right and binary, or refused in one line.

Each trap is built of fsg's layers and of plain PyTorch, with signs in two spellings.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.export.formats.tflite.write import to_tflite
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts
from fsg.training.layers import BinaryActivation, BinaryConv2d, BinaryLinear

from .patterns import Do

SHAPE = (3, 9, 8)


class PlainConv(nn.Module):
    """A binary convolution that pads its signs itself."""

    def __init__(self, inputs, outputs, kernel, stride=1, padding=0, dilation=1, groups=1, value=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs // groups, kernel, kernel))
        self.window = {"stride": stride, "dilation": dilation, "groups": groups}
        self.sides, self.value = (padding,) * 4, value

    def forward(self, x):
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        x = F.pad(x, self.sides, value=self.value) if any(self.sides) else x
        return F.conv2d(x, self.weight.sign() * scale, **self.window)


def fsg_conv(*size, value=1.0, **window):
    return BinaryConv2d(*size, padding_value=value, **window)


def plain_linear(inputs, outputs):
    return Do(lambda m, x: F.linear(x, m.w.sign()), w=nn.Parameter(torch.randn(outputs, inputs)))


def product(inputs, outputs):
    return Do(lambda m, x: x @ m.w.sign(), w=nn.Parameter(torch.randn(inputs, outputs)))


def plain_sign():
    return Do(lambda m, x: torch.sign(x))


def where():
    return Do(lambda m, x: torch.where(x >= 0, 1.0, -1.0))


def comparison():
    return Do(lambda m, x: 2 * (x >= 0).float() - 1)


SPELLINGS = {  # sign, convolution, dense layer
    "fsg": (BinaryActivation, fsg_conv, BinaryLinear),
    "torch.sign": (plain_sign, PlainConv, plain_linear),
    "torch.where": (where, PlainConv, product),
    "comparison": (comparison, PlainConv, plain_linear),
}


def stem(channels=8):
    return nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels)


TRAPS = {  # of a sign, a convolution and a dense layer: what makes the network, and how many LceBconv2d it has
    "signs that are not recognised": (lambda s, c, d: [s(), c(3, 8, 3)], 1),
    "padding 1 at stride 2": (lambda s, c, d: [s(), c(3, 8, 3, stride=2, padding=1)], 1),
    "padding 2 at stride 2": (lambda s, c, d: [s(), c(3, 8, 5, stride=2, padding=2)], 1),
    "dilation at stride 2": (lambda s, c, d: [s(), c(3, 8, 3, stride=2, padding=2, dilation=2)], 1),
    "zeros behind the sign": (lambda s, c, d: [s(), c(3, 8, 3, padding=1, value=0.0)], 1),
    "zeros behind the sign at stride 2": (lambda s, c, d: [s(), c(3, 8, 3, stride=2, padding=1, value=0.0)], 1),
    "zeros of a layer of their own": (lambda s, c, d: [s(), nn.ZeroPad2d(1), c(3, 8, 3)], 1),
    "zeros of a layer of their own at stride 2": (lambda s, c, d: [s(), nn.ZeroPad2d(1), c(3, 8, 3, stride=2)], 1),
    "-1 of a layer of its own at stride 2": (
        lambda s, c, d: [s(), nn.ConstantPad2d(1, -1.0), c(3, 8, 3, stride=2)],
        1,
    ),
    "-1 behind the sign": (lambda s, c, d: [s(), c(3, 8, 3, padding=1, value=-1.0)], 1),
    "-1 behind the sign at stride 2": (lambda s, c, d: [s(), c(3, 8, 3, stride=2, padding=1, value=-1.0)], 1),
    "a pool behind the sign": (lambda s, c, d: [*stem(), s(), nn.MaxPool2d(2), c(8, 8, 3)], 1),
    "a padded pool behind the sign": (lambda s, c, d: [*stem(), s(), nn.MaxPool2d(3, 2, 1), c(8, 8, 3)], 1),
    "norm behind the pool": (
        lambda s, c, d: [s(), c(3, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8), s(), c(8, 8, 3, padding=1)],
        2,
    ),
    "norm in front of the pool": (
        lambda s, c, d: [s(), c(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), s(), c(8, 8, 3, padding=1)],
        2,
    ),
    "zeros in a chain": (
        lambda s, c, d: [s(), c(3, 8, 3, padding=1, value=0.0), nn.BatchNorm2d(8), s(), c(8, 8, 3)],
        2,
    ),
    "PReLU in a chain": (lambda s, c, d: [s(), c(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), s(), c(8, 8, 3)], 2),
    "hardtanh in a chain": (lambda s, c, d: [s(), c(3, 8, 3), nn.BatchNorm2d(8), nn.Hardtanh(), s(), c(8, 8, 3)], 2),
    "a dense layer": (lambda s, c, d: [nn.Flatten(), s(), d(216, 10)], 1),
    "dense layers": (lambda s, c, d: [nn.Flatten(), s(), d(216, 33), nn.BatchNorm1d(33), s(), d(33, 7)], 2),
    "a dense layer on flattened signs": (lambda s, c, d: [s(), nn.Flatten(), d(216, 10)], 1),
    "groups": (lambda s, c, d: [*stem(), s(), c(8, 8, 3, padding=1, groups=2)], 2),
    "groups at stride 2": (lambda s, c, d: [*stem(), s(), c(8, 8, 3, stride=2, padding=1, groups=2)], 2),
    "depthwise": (lambda s, c, d: [*stem(), s(), c(8, 8, 3, padding=1, groups=8)], 0),
    "weights of other sizes": (lambda s, c, d: [s(), nn.Conv2d(3, 8, 3)], 0),
    "float at stride 2": (lambda s, c, d: [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()], 0),
    "float 7x7 at stride 2": (lambda s, c, d: [nn.Conv2d(3, 8, 7, 2, 3)], 0),
    "float padded before, at stride 2": (lambda s, c, d: [nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3, 2)], 0),
}
CASES = [(trap, spelling) for trap in TRAPS for spelling in SPELLINGS]


def settled(trap, spelling):
    torch.manual_seed(sum(map(ord, trap)))
    model = nn.Sequential(*TRAPS[trap][0](*SPELLINGS[spelling]))
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight)  # of both signs
            nn.init.normal_(layer.bias)
    return model.eval()


def check(model, content, binary, path):
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    path.write_bytes(content)
    with torch.no_grad():
        expected = model(x).flatten(1).numpy()
    found = open_model(path)(x.numpy()).reshape(len(x), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert op_counts(content).get("LceBconv2d", 0) == binary


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("trap", "spelling"), CASES)
def test_written_directly(trap, spelling, batch, path):
    model = settled(trap, spelling)
    content, writer = to_tflite(simplify(trace(model, SHAPE)), writer="direct", batch=batch)
    assert writer == "direct"
    check(model, content, TRAPS[trap][1], path)


REFUSED_BY_LCE = {
    "zeros behind the sign at stride 2",
    "zeros of a layer of their own at stride 2",
    "PReLU in a chain",
    "groups",
    "groups at stride 2",
    "depthwise",
}


@pytest.mark.slow
@pytest.mark.parametrize(("trap", "spelling"), CASES)
def test_written_by_lce(trap, spelling, path):
    model = settled(trap, spelling)
    graph = simplify(trace(model, SHAPE))
    if trap in REFUSED_BY_LCE:
        with pytest.raises(FsgError, match=r"^cannot export .*; --writer direct knows more$"):
            to_tflite(graph, writer="lce")
        content, writer = to_tflite(graph)
        assert writer == "direct"
    else:
        content, writer = to_tflite(graph, writer="lce")
        assert writer == "lce"
    check(model, content, TRAPS[trap][1], path)


@pytest.mark.parametrize("settings", [{"padding": 2}, {"padding": 3, "stride": 2}], ids=str)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_zeros_that_no_operator_of_lces_can_pad(spelling, settings):
    sign, conv, _ = SPELLINGS[spelling]
    graph = simplify(trace(nn.Sequential(sign(), conv(3, 8, 3, value=0.0, **settings)).eval(), SHAPE))
    with pytest.raises(FsgError, match=r"^cannot export .*train it with padding_value=1$") as caught:
        to_tflite(graph, writer="direct")
    assert "\n" not in str(caught.value)
