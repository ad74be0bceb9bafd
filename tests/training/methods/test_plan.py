"""What a rule changes in its network as the training goes on: narrower gradients, and a stage with float weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.methods.base import STE
from fsg.training.methods.fsg import FSG
from fsg.training.methods.metaquant import MetaQuant
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear
from fsg.training.record import signs
from fsg.training.registry import make_rule

VALUES = (-1.25, -0.5, 0.0, 0.75, 2.0)


def slopes(activation):
    x = torch.tensor(VALUES, dtype=torch.float64).requires_grad_()
    y = activation(x)
    y.sum().backward()
    assert y.tolist() == [-1, -1, 1, 1, 1]
    return x.grad.tolist()


def test_the_polynomial_gradient_is_narrowed_at_the_end():
    model = nn.Sequential(BinaryActivation(), BinaryActivation("clipped"), BinaryActivation("ede"), BinaryLinear(5, 2))
    rule = STE(model, lr=1)
    rule.plan(ede_end=0.4)
    polynomial = [max(2 - 2 * abs(value), 0) for value in VALUES]
    for progress, t in ((0.0, 0), (0.6, 0), (0.7, 5**0.25), (0.8, 5**0.5), (1.0, 5), (0.3, 0)):
        rule.progress = progress
        expected = [t * (1 - math.tanh(t * value) ** 2) for value in VALUES] if t else polynomial
        assert slopes(model[0]) == pytest.approx(expected, abs=1e-12), progress
        assert slopes(model[1]) == [0, 1, 1, 1, 0]
    rule.plan()
    for progress in (0.99, 1.05):
        rule.progress = progress
        assert slopes(model[0]) == polynomial


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        BinaryActivation(),
        BinaryConv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        BinaryLinear(64, 3),
    )


def forward(model, conv, linear):
    """The network written down once more, with these weights."""
    signs = torch.where(model.images < 0, -1.0, 1.0)
    y = F.conv2d(F.pad(signs, (1,) * 4, value=1.0), conv)
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    y = (y - mean) / (variance + 1e-5).sqrt()
    return y.flatten(1) @ linear.T + model[4].bias


@pytest.mark.parametrize("rule_of", [STE, FSG])
def test_the_first_stage_trains_float_weights_of_which_the_tested_network_has_the_signs(rule_of):
    model = network()
    model.images, labels = torch.randn(8, 3, 4, 4), torch.arange(8) % 3
    rule = rule_of(model, lr=1e-2)
    rule.plan(two_stages=0.5)
    for step in range(4):
        rule.progress = step / 4
        binary = step >= 2
        layers = model[1], model[4]
        with rule.lookahead():
            lent = [layer.weight if layer.lookahead is None else layer.lookahead for layer in layers]
            plain = [torch.where(weight > 0, 1.0, -1.0) if binary else weight for weight in lent]
            logits = model(model.images)
            torch.testing.assert_close(logits, forward(model, *plain), rtol=1e-4, atol=1e-4)
            loss = F.cross_entropy(logits, labels)
            if not binary:
                leaves = [weight.detach().clone().requires_grad_() for weight in plain]
                F.cross_entropy(forward(model, *leaves), labels).backward()
        loss.backward()
        if not binary:  # the gradient of the floats, not one through a quantiser
            found = rule.gradients() if rule_of is STE else rule.split(rule.leaf.grad)
            for leaf in leaves:
                assert any(g.shape == leaf.shape and torch.allclose(g, leaf.grad, atol=1e-5) for g in found)
        before = [layer.weight.detach().clone() for layer in layers]
        rule.step()
        assert step == 0 or all((layer.weight != old).any() for layer, old in zip(layers, before, strict=True))
        for name, layer in (("1", layers[0]), ("4", layers[1])):
            assert torch.equal(signs(model)[name], layer.weight > 0)  # what flips are counted by
            assert layer.binary_weight().unique().tolist() == [-1, 1]

        model.eval()
        norm, images = model[2], model.images
        y = F.conv2d(F.pad(torch.where(images < 0, -1.0, 1.0), (1,) * 4, value=1.0), layers[0].weight.sign())
        expected = norm(y).flatten(1) @ layers[1].weight.sign().T + layers[1].bias
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
        model.train()


def test_a_run_s_settings_reach_its_rule():
    model = network()
    rule = make_rule(Config(method="fsg", ede_end=0.25, two_stages=0.5), model)
    assert model[1].unquantized and model[4].unquantized and not model[0].narrowed
    rule.progress = 0.875
    assert not model[1].unquantized and model[0].narrowed == pytest.approx(5**0.5)
    make_rule(Config(method="ste"), model)
    assert not model[1].unquantized and not model[0].narrowed


def test_what_a_network_or_a_method_cannot_do_is_refused():
    with pytest.raises(FsgError, match="--ede-end: the network has no BinaryActivation of polynomial gradient"):
        STE(nn.Sequential(BinaryActivation("clipped"), BinaryLinear(2, 2)), lr=1).plan(ede_end=0.5)
    for rule in (MetaQuant(network(), lr=1), FSG(network(), lr=1, variant="reference")):
        with pytest.raises(FsgError, match=f"--two-stages: {type(rule).__name__} trains bits from the first step"):
            rule.plan(two_stages=0.5)
