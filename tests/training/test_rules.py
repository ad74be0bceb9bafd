"""Gradient rules: FSG starts as plain straight-through estimation and learns from there."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.training.layers import BinaryActivation, BinaryConv2d, BinaryLinear
from fsg.training.methods import FSG
from fsg.training.rules import STE


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        BinaryActivation(),
        BinaryConv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        BinaryLinear(32, 4),
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 3, 8, 8, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def train(model, rule, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        x, y = batch(step)
        with rule.lookahead():
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return losses


def latent(model):
    return torch.cat([model[3].weight.detach().flatten(), model[7].weight.detach().flatten()])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_with_hypernetworks_at_their_start_fsg_is_straight_through_estimation(optimizer):
    """Only later: the update of a gradient is applied at the next look-ahead. SGD lacks Adam's bias correction, so its
    plain counterpart is momentum."""
    plain, learned = network(), network()
    ste = STE(plain, lr=1e-2, optimizer=optimizer)
    fsg = FSG(learned, lr=1e-2, optimizer=optimizer, meta_lr=0.0)
    ste_losses, fsg_losses = train(plain, ste, 6), train(learned, fsg, 6)
    assert fsg_losses == pytest.approx(ste_losses, rel=1e-4)
    with fsg.lookahead():
        ahead = torch.cat([learned[3].lookahead.flatten(), learned[7].lookahead.flatten()]).detach()
    torch.testing.assert_close(ahead, latent(plain), rtol=1e-4, atol=1e-6)


def test_hypernetworks_learn_and_change_the_update():
    model = network()
    rule = FSG(model, lr=1e-2, meta_lr=1e-2)
    train(model, rule, 3)
    before = rule._direction(torch.arange(len(rule.layer_of))).detach()
    state = copy.deepcopy(rule.state_dict())
    train(model, rule, 30, start=3)
    assert rule.slow.mamba.out_proj.weight.abs().max() > 0 and rule.fast[-1].weight.abs().max() > 0
    assert all(p.grad is None for p in rule.slow.parameters())
    learned = rule.slow.state_dict(), rule.fast.state_dict()
    rule.load_state_dict(state)
    rule.slow.load_state_dict(learned[0])
    rule.fast.load_state_dict(learned[1])
    after = rule._direction(torch.arange(len(rule.layer_of))).detach()
    assert ((after - before).norm() / before.norm()).item() > 1e-3


def test_hypernetwork_gradient_is_that_of_the_loss_at_the_lookahead_weights():
    """The published objective: dL/dtheta through w - lr * direction(theta), here by finite differences."""
    model = network()
    rule = FSG(model, lr=0.05, meta_lr=1e-2)
    train(model, rule, 8)
    parameter = rule.slow.mamba.out_proj.weight
    x, y = batch(99)
    with rule.lookahead():
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    gradient = rule.leaf.grad
    everything = torch.arange(len(gradient))
    direction = rule._direction(everything)
    direction.backward(-rule.lr * gradient)
    analytic = parameter.grad[0, 0].item()
    epsilon = 1e-3
    with torch.no_grad():
        parameter[0, 0] += epsilon
        moved = rule._direction(everything)
    numeric = (-rule.lr * gradient * (moved - direction.detach())).sum().item() / epsilon
    assert numeric == pytest.approx(analytic, rel=2e-2)


def test_gates_are_centred_in_every_layer():
    rule = FSG(network(), lr=1e-2)
    gate = rule._gate([torch.randn(len(rule.layer_of))], rule.layer_of)
    for layer in range(2):
        assert gate[rule.layer_of == layer].mean().item() == pytest.approx(1, abs=1e-5)


def test_older_gradients_reach_the_update():
    model = network()
    rule = FSG(model, lr=1e-2, meta_lr=1e-2)
    train(model, rule, 30)
    everything = torch.arange(len(rule.layer_of))
    with torch.no_grad():
        full = rule._direction(everything)
        newest = (int(rule.history.count) - 1) % 5
        rule.history.gradients[[i for i in range(5) if i != newest]] = 0
        forgetful = rule._direction(everything)
    assert ((full - forgetful).norm() / full.norm()).item() > 1e-3


@pytest.mark.parametrize("method", {"ste": STE, "fsg": FSG})
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_rule_continues_exactly_from_its_state(method, optimizer, tmp_path):
    torch.set_num_threads(1)
    model = network()
    rule = {"ste": STE, "fsg": FSG}[method](model, lr=1e-2, optimizer=optimizer)
    train(model, rule, 7)
    torch.save({"model": model.state_dict(), "rule": rule.state_dict()}, tmp_path / "state.pt")
    expected = train(model, rule, 5, start=7)

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other = network()
    other_rule = {"ste": STE, "fsg": FSG}[method](other, lr=1e-2, optimizer=optimizer)
    other.load_state_dict(saved["model"])
    other_rule.load_state_dict(saved["rule"])
    assert train(other, other_rule, 5, start=7) == expected


def test_layers_get_their_own_weights_back_after_an_error():
    model = network()
    rule = FSG(model, lr=1e-2)
    before = latent(model)
    with pytest.raises(ZeroDivisionError), rule.lookahead():
        raise ZeroDivisionError
    assert model[3].lookahead is None
    torch.testing.assert_close(latent(model), before, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="backward"):
        rule.step()


def test_learning_rate_reaches_the_optimizer_and_the_lookahead():
    model = network()
    rule = FSG(model, lr=1e-2)
    train(model, rule, 2)
    before = latent(model)
    rule.lr = 0.0
    train(model, rule, 1)
    torch.testing.assert_close(latent(model), before, rtol=0, atol=0)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(FsgError, match="no binary layer"):
        FSG(nn.Linear(2, 2), lr=1)
    with pytest.raises(FsgError, match="alpha is 1"):
        FSG(network(), lr=1, alpha=1.0)
    with pytest.raises(FsgError, match="history length is 0"):
        FSG(network(), lr=1, history=0)
