"""Quantisers against the published code's values and against their own formulas."""

import numpy as np
import pytest
import torch

from fsg import FsgError
from fsg.training.networks.layers import BinaryActivation
from fsg.training.networks.quantizers import WEIGHT_QUANTIZERS, dorefa, scaled_sign, sign


def test_dorefa_is_that_of_the_published_code(golden):
    weight = torch.from_numpy(golden["quantiser_f32/w"]).requires_grad_()
    quantised = dorefa(weight)
    quantised.backward(torch.from_numpy(golden["quantiser_f32/upstream"]))
    np.testing.assert_array_equal(quantised.detach().numpy(), golden["quantiser_f32/quantized"])
    np.testing.assert_allclose(weight.grad.numpy(), golden["quantiser_f32/dL_dw"], rtol=1e-5)


def test_clipped_sign_is_that_of_the_published_code_but_at_zero(golden):
    x = torch.from_numpy(golden["act_fc_f32/x"]).requires_grad_()
    y = sign(x, "clipped")
    y.backward(torch.from_numpy(golden["act_fc_f32/upstream"]))
    binarised = golden["act_fc_f32/binarised"]
    np.testing.assert_array_equal(y.detach().numpy(), np.where(binarised == 0, 1, binarised))
    np.testing.assert_array_equal(x.grad.numpy(), golden["act_fc_f32/dL_dx"])


def test_sign_of_both_zeros_is_plus_one():
    assert sign(torch.tensor([0.0, -0.0, -1e-30, 1e-30])).tolist() == [1, 1, -1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gradient", ["polynomial", "clipped"])
def test_sign_is_the_plain_formula_to_the_last_bit(gradient, dtype):
    torch.manual_seed(0)
    after_one = 1 + torch.finfo(dtype).eps
    edges = torch.tensor([0.0, -0.0, 1, -1, after_one, -after_one], dtype=dtype)
    x = torch.cat([edges, torch.randn(2, 5, 3, 7).to(dtype).flatten()]).requires_grad_()
    upstream = torch.randn(len(x)).to(dtype)
    y = sign(x, gradient)
    y.backward(upstream)
    size = x.detach().abs()
    slope = (2 - 2 * size).clamp(min=0) if gradient == "polynomial" else (size <= 1).to(dtype)
    assert torch.equal(y, torch.where(x < 0, -1.0, 1.0).to(dtype))
    assert torch.equal(x.grad, upstream * slope)


def test_polynomial_gradient():
    x = torch.tensor([-2.0, -1.0, -0.25, 0.0, 0.5, 1.0, 3.0], requires_grad=True)
    sign(x, "polynomial").sum().backward()
    assert x.grad.tolist() == [0, 0, 1.5, 2, 1, 0, 0]


def test_scaled_sign_has_one_magnitude_per_channel_and_its_gradient_is_the_formula_s():
    torch.manual_seed(0)
    weight = (torch.randn(4, 3, 3, 3, dtype=torch.float64) * 0.6).requires_grad_()
    upstream = torch.randn_like(weight)
    quantised = scaled_sign(weight)
    quantised.backward(upstream)
    scale = weight.detach().abs().mean((1, 2, 3), keepdim=True)
    signs = torch.where(weight.detach() < 0, -1.0, 1.0).double()
    torch.testing.assert_close(quantised.detach(), signs * scale)
    straight_through = upstream * scale * (weight.detach().abs() <= 1)
    through_scale = signs * (upstream * signs).sum((1, 2, 3), keepdim=True) / weight[0].numel()
    torch.testing.assert_close(weight.grad, straight_through + through_scale)


@pytest.mark.parametrize("quantise", WEIGHT_QUANTIZERS.values())
def test_all_zero_weights_stay_finite(quantise):
    weight = torch.zeros(2, 3, 3, 3, requires_grad=True)
    quantised = quantise(weight)
    quantised.sum().backward()
    assert torch.isfinite(quantised).all() and torch.isfinite(weight.grad).all() and (quantised != 0).all()


def test_an_unknown_gradient_is_refused():
    with pytest.raises(FsgError, match="unknown activation gradient 'tanh': choose one of polynomial, clipped"):
        BinaryActivation("tanh")
