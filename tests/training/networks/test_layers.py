"""Binary layers against plain convolutions and products of their signs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fsg import FsgError
from fsg.training.networks.layers import (
    BinaryActivation,
    BinaryConv2d,
    BinaryLinear,
    binary_layers,
    count_parameters,
    float_size,
)


@settings(deadline=None, max_examples=40)
@given(
    channels=st.integers(1, 9),
    outputs=st.integers(1, 9),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    padding_value=st.sampled_from([0.0, 1.0]),
    size=st.integers(9, 14),
)
def test_binary_convolution_is_the_sum_of_agreements(
    channels, outputs, kernel, stride, padding, dilation, padding_value, size
):
    layer = BinaryConv2d(
        channels, outputs, kernel, stride, padding, dilation, quantizer="scaled-sign", padding_value=padding_value
    )
    x = BinaryActivation()(torch.randn(2, channels, size, size + 1))
    padded = F.pad(x, (padding,) * 4, value=padding_value)
    signs = torch.where(layer.weight.detach() < 0, -1.0, 1.0)
    windows = F.unfold(padded, kernel, dilation=dilation, stride=stride)
    sums = torch.einsum("ok,nkp->nop", signs.flatten(1), windows)
    scale = layer.weight.detach().abs().mean((1, 2, 3))
    expected = sums * scale[:, None]
    torch.testing.assert_close(layer(x).flatten(2), expected, rtol=1e-5, atol=1e-5)


def test_groups_and_linear():
    conv = BinaryConv2d(8, 6, 3, padding=1, groups=2)
    x = torch.sign(torch.randn(1, 8, 5, 5))
    left = F.conv2d(F.pad(x[:, :4], (1,) * 4, value=1.0), conv.binary_weight()[:3])
    torch.testing.assert_close(conv(x)[:, :3], left)
    linear = BinaryLinear(7, 3)
    assert linear.binary_weight().abs().eq(1).all()
    y = torch.randn(4, 7)
    torch.testing.assert_close(linear(y), y @ linear.binary_weight().T + linear.bias)


def test_lookahead_weights_serve_the_forward_pass_and_get_its_gradient():
    layer = BinaryConv2d(3, 4, 3)
    x = torch.randn(2, 3, 6, 6)
    ordinary = layer(x)
    layer.lookahead = (-layer.weight.detach()).requires_grad_()
    flipped = layer(x)
    torch.testing.assert_close(flipped, -ordinary)
    flipped.sum().backward()
    assert layer.weight.grad is None and layer.lookahead.grad.abs().sum() > 0


def test_binary_layers_and_parameter_counts():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), BinaryConv2d(8, 8, 3), torch.nn.Flatten(), BinaryLinear(8, 2))
    assert list(binary_layers(model)) == ["1", "3"]
    assert count_parameters(model) == (8 * 8 * 9 + 16, 3 * 8 * 9 + 8 + 2)
    assert float_size(model) == 4 * sum(p.numel() for p in model.parameters())


def test_an_unknown_quantiser_is_refused():
    with pytest.raises(FsgError, match="unknown weight quantiser 'ternary'"):
        BinaryConv2d(3, 3, 3, quantizer="ternary")
