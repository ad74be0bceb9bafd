"""Every method of the registry: its rule is made of settings, teaches a network, and continues from its state."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fsg.training.config import Config
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d
from fsg.training.registry import METHODS, make_rule, quantizers


def learner(method):
    """A small binary network and its rule; the same ones for every call."""
    torch.manual_seed(0)
    config = Config(method=method, lr=1e-2, history=2, hidden=4 if method == "metaquant" else 0)
    weights, gradient = quantizers(config)
    conv = [BinaryConv2d(6, 6, 3, padding=1, quantizer=weights), nn.BatchNorm2d(6), BinaryActivation(gradient)]
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), BinaryActivation(gradient), *conv)
    model.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2)])
    return model, make_rule(config, model)


def losses(model, rule, steps, seed=0):
    """The losses of some steps on images that are brighter on one side, the left or the right."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        labels = torch.randint(2, (16,), generator=generator)
        images = torch.randn(16, 1, 8, 8, generator=generator)
        images[:, 0, :, :4] += 2.0 * labels[:, None, None]
        images[:, 0, :, 4:] += 2.0 * (1 - labels[:, None, None])
        with rule.lookahead():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        rule.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_teaches(method):
    model, rule = learner(method)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    course = losses(model, rule, 30)
    assert sum(course[-5:]) < 0.7 * sum(course[:5])
    assert all(not torch.equal(value, dict(model.named_parameters())[name]) for name, value in before.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_continues_from_its_state(method):
    model, rule = learner(method)
    losses(model, rule, 4)
    again, other = learner(method)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(rule.state_dict()))
    torch.manual_seed(5)
    expected = losses(model, rule, 4, seed=1)
    torch.manual_seed(5)
    assert losses(again, other, 4, seed=1) == expected


def test_the_command_line_knows_all_methods(fsg):
    code, out, _ = fsg("train", "--help")
    assert code == 0 and all(method in out for method in METHODS)
