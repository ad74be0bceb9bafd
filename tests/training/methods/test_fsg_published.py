"""FSG's reference variant as a rule for training."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.training.config import PRESETS, Config
from fsg.training.methods.fsg import FSG
from fsg.training.networks.layers import BinaryConv2d, BinaryLinear
from fsg.training.networks.quantizers import dorefa
from fsg.training.registry import make_rule

SMALL = {"hidden": 4, "expand": 3, "d_state": 2, "d_conv": 3}


def network(*, norm=True):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3) if norm else nn.Identity(),
        BinaryConv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        BinaryLinear(64, 5),
    )


def rule_for(model, seed=2, **settings):
    torch.manual_seed(seed)
    return FSG(model, variant="reference", **{"lr": 1e-2, **SMALL, **settings})


def batch(step, size=8):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 2, 6, 6, generator=generator), torch.randint(0, 5, (size,), generator=generator)


def backward(model, rule, x, y):
    with rule.lookahead():
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.item()


def train(model, rule, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        losses.append(backward(model, rule, *batch(step)))
        rule.step()
    return losses


def test_the_first_step_only_stores_the_gradients_of_the_binary_weights():
    model = network()
    rule = rule_for(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = nn.Sequential(*copy.deepcopy(list(model)))
    plain[2] = nn.Conv2d(3, 4, 3, bias=False)
    plain[2].weight.data = dorefa(model[2].weight.detach())
    plain[5] = nn.Linear(64, 5)
    plain[5].weight.data = dorefa(model[5].weight.detach())
    plain[5].bias.data = model[5].bias.detach()
    x, y = batch(0)
    hidden = plain[1](plain[0](x))
    F.cross_entropy(plain[3:](plain[2](F.pad(hidden, (1, 1, 1, 1), value=1.0))), y).backward()
    train(model, rule, 1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    stored = torch.cat([plain[2].weight.grad.flatten(), plain[5].weight.grad.flatten()])
    torch.testing.assert_close(rule.history.newest(), stored)
    torch.testing.assert_close(rule.bias_directions[0], plain[5].bias.grad)


def test_other_parameters_move_by_adam():
    model = network()
    rule = rule_for(model)
    train(model, rule, 1)
    backward(model, rule, *batch(1))
    others = [model[0].weight, model[1].weight, model[5].bias]
    before, gradients = [p.detach().clone() for p in others], [p.grad.clone() for p in others]
    rule.step()
    for parameter, old, gradient in zip(others, before, gradients, strict=True):
        root = math.sqrt(0.001)  # Adam's first step; 1e-8 is beside the uncorrected root
        expected = old - 1e-2 * root * gradient / (root * gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected)


def test_hypernetworks_learn_at_their_own_rates():
    model = network()
    rule = rule_for(model, fast_lr=0.0, slow_lr=1e-2)
    fast, slow = copy.deepcopy(rule.fast.state_dict()), copy.deepcopy(rule.slow.state_dict())
    train(model, rule, 3)
    assert all(torch.equal(value, fast[name]) for name, value in rule.fast.state_dict().items())
    assert all(not torch.equal(value, slow[name]) for name, value in rule.slow.state_dict().items())


def test_averaged_gradients_of_two_halves_are_those_of_the_whole():
    models = [network(norm=False).double() for _ in range(3)]
    rules = [rule_for(model) for model in models]
    for step in range(4):
        x, y = batch(step)
        x = x.double()
        for model, rule, part in zip(models, rules, (slice(0, 8), slice(0, 4), slice(4, 8)), strict=True):
            backward(model, rule, x[part], y[part])
        for one, other in zip(rules[1].gradients(), rules[2].gradients(), strict=True):
            mean = (one + other) / 2
            one.copy_(mean)
            other.copy_(mean)
        for rule in rules:
            rule.step()
    nets = [nn.ModuleList([model, rule.fast, rule.slow]) for model, rule in zip(models, rules, strict=True)]
    for whole, one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, whole, rtol=1e-7, atol=1e-9)
        assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("settings", [{}, {"slow": False}, {"embedding": False, "nonlinearity": "relu"}])
def test_it_continues_exactly_from_its_state(steps, settings, tmp_path):
    torch.set_num_threads(1)
    model = network()
    rule = rule_for(model, **settings)
    train(model, rule, steps)
    torch.save({"model": model.state_dict(), "rule": rule.state_dict()}, tmp_path / "state.pt")
    expected = train(model, rule, 4, start=steps)

    saved = torch.load(tmp_path / "state.pt", weights_only=True, mmap=True)
    other = network()
    other_rule = rule_for(other, seed=3, **settings)
    other.load_state_dict(saved["model"])
    other_rule.load_state_dict(saved["rule"])
    assert train(other, other_rule, 4, start=steps) == expected
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def generated(**settings):
    """What the rule generates after three steps of the same minibatches."""
    model = network()
    rule = rule_for(model, fast_lr=0.0, slow_lr=0.0, **settings)
    train(model, rule, 3)
    with rule.lookahead():
        return rule, rule.generated


def test_history_of_none_is_that_of_the_current_gradient():
    slow = {length: torch.cat([one.flatten() for one in generated(history=length)[1].slow]) for length in (0, 1, 2)}
    assert torch.equal(slow[0], slow[1]) and not torch.equal(slow[1], slow[2])


def test_without_the_slow_net_its_gradient_is_zero():
    rule, made = generated(slow=False, alpha=0.25)
    assert all(not one.any() for one in made.slow)
    assert rule.hypernetwork_parameters == 4 + 16 + 4
    for layer, weight, slope, fast in zip(rule.layers, made.weight, made.slope, made.fast, strict=True):
        torch.testing.assert_close(weight, layer.weight - 1e-2 * 0.75 * slope * fast)


def test_without_the_embedding_the_slow_net_does_not_know_its_layer():
    with_it, _ = generated()
    rule, made = generated(embedding=False)
    assert with_it.hypernetwork_parameters - rule.hypernetwork_parameters == 2
    past = rule.history.stored()[:, : rule.sizes[0]].flatten()
    expected = rule.slow.mamba(past[None, :, None])[0, -rule.sizes[0] :, 0]
    torch.testing.assert_close(made.slow[0].flatten(), expected)


def test_layers_get_their_own_weights_and_biases_back_after_an_error():
    model = network()
    rule = rule_for(model)
    train(model, rule, 2)
    bias = model[5].bias.detach().clone()
    with pytest.raises(ZeroDivisionError), rule.lookahead():
        assert not torch.equal(model[5].bias, bias)
        raise ZeroDivisionError
    assert torch.equal(model[5].bias, bias) and model[5].binary is None
    rule = rule_for(model)
    with pytest.raises(RuntimeError, match="backward"):
        rule.step()


def test_settings_that_make_no_sense_are_refused():
    for settings, message in (
        ({"optimizer": "sgd"}, "Adam, not sgd: use optimizer adam"),
        ({"beta2": 0.9}, "beta2 0.999, not 0.9"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"history": -1}, "history length is -1"),
        ({"nonlinearity": "selu"}, "unknown nonlinearity 'selu'"),
    ):
        with pytest.raises(FsgError, match=message):
            rule_for(network(), **settings)
    with pytest.raises(FsgError, match="no binary layer"):
        rule_for(nn.Linear(2, 2))
    with pytest.raises(FsgError, match="use dorefa"):
        rule_for(nn.Sequential(BinaryLinear(2, 2, quantizer="scaled-sign")))


def test_settings_of_a_run_reach_the_rule():
    """0 and auto stand for the published sizes and rates; the paper's preset has the published settings."""
    rule = make_rule(Config(**PRESETS["paper"]), network())
    fast, mamba = 100 + 100 * 100 + 100, 200 + 800 + 100 + 33 * 100 + 100 + 100 + 1600 + 100 + 100
    assert rule.hypernetwork_parameters == fast + mamba + 2
    assert [group["lr"] for group in rule.meta_optimizer.param_groups] == [1e-2, 1e-3]
    assert (rule.lr, rule.alpha, len(rule.history.gradients)) == (1e-3, 0.9, 5)
    changed = {"fast_lr": 0.5, "hidden": 7, "slow": False, "alpha": 0.3, "history": 2, "nonlinearity": "tanh"}
    rule = make_rule(Config(**{**PRESETS["paper"], **changed}), network())
    assert rule.hypernetwork_parameters == 7 + 49 + 7 and rule.alpha == 0.3 and rule.slow is None
    assert [group["lr"] for group in rule.meta_optimizer.param_groups] == [0.5]
    assert isinstance(rule.fast[1], nn.Tanh)
