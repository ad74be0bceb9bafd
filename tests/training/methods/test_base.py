"""Gradient rules: FSG starts as plain straight-through estimation and learns from there."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.training.methods.base import STE
from fsg.training.methods.fsg import FSG
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear


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


def test_with_hypernetworks_at_their_start_fsg_is_adam_with_nesterovs_momentum():
    """Written down once more, in float64."""
    model = network().double()
    rule = FSG(model, lr=1e-2, alpha=0.8, beta1=0.7, beta2=0.95, fast_lr=0.0, slow_lr=0.0)
    means, squares = {3: 0.0, 7: 0.0}, {3: 0.0, 7: 0.0}
    expected = {index: model[index].weight.detach().clone() for index in means}
    for step in range(1, 6):
        x, y = batch(step)
        with rule.lookahead():
            for index, weight in expected.items():
                torch.testing.assert_close(model[index].lookahead.detach(), weight)
            loss = F.cross_entropy(model(x.double()), y)
            lent = {index: model[index].lookahead for index in means}
            for tensor in lent.values():
                tensor.retain_grad()
        loss.backward()
        for index, tensor in lent.items():
            gradient = tensor.grad
            means[index] = 0.7 * means[index] + 0.3 * gradient
            squares[index] = 0.95 * squares[index] + 0.05 * gradient.square()
            momentum, size = means[index] / (1 - 0.7**step), (squares[index] / (1 - 0.95**step)).sqrt() + 1e-8
            expected[index] = expected[index] - 1e-2 * (0.8 * momentum + 0.2 * gradient) / size
        rule.step()


def test_hypernetworks_learn_and_change_the_update():
    model = network()
    rule = FSG(model, lr=1e-2, fast_lr=1e-2, slow_lr=1e-2)
    train(model, rule, 3)
    before = rule._direction(None).detach()
    state = copy.deepcopy(rule.state_dict())
    train(model, rule, 30, start=3)
    assert rule.slow.mamba.out_proj.weight.abs().max() > 0 and rule.fast[-1].weight.abs().max() > 0
    assert all(p.grad is None for p in rule.slow.parameters())
    learned = rule.slow.state_dict(), rule.fast.state_dict()
    rule.load_state_dict(state)
    rule.slow.load_state_dict(learned[0])
    rule.fast.load_state_dict(learned[1])
    after = rule._direction(None).detach()
    assert ((after - before).norm() / before.norm()).item() > 1e-3


def test_hypernetwork_gradient_is_that_of_the_loss_at_the_lookahead_weights():
    """The published objective: dL/dtheta through w - lr * direction(theta), here by finite differences."""
    model = network()
    rule = FSG(model, lr=0.05, fast_lr=1e-2, slow_lr=1e-2)
    train(model, rule, 8)
    parameter = rule.slow.mamba.out_proj.weight
    x, y = batch(99)
    with rule.lookahead():
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    gradient = rule.leaf.grad
    direction = rule._direction(None)
    direction.backward(-rule.lr * gradient)
    analytic = parameter.grad[0, 0].item()
    epsilon = 1e-3
    with torch.no_grad():
        parameter[0, 0] += epsilon
        moved = rule._direction(None)
    numeric = (-rule.lr * gradient * (moved - direction.detach())).sum().item() / epsilon
    assert numeric == pytest.approx(analytic, rel=2e-2)


def trained_rule(**settings):
    """After 30 steps, with hypernetworks that have something to say."""
    model = network()
    rule = FSG(model, lr=1e-2, **settings)
    train(model, rule, 30)
    nn.init.normal_(rule.fast[-1].weight)
    if rule.slow is not None:
        nn.init.normal_(rule.slow.mamba.out_proj.weight)
    return rule


def slow_gradient(rule):
    """The slow part of the update alone."""
    rule.alpha = 1.0
    with torch.no_grad():
        return rule._direction(None)


def relative_change(before, after):
    return ((after - before).norm() / before.norm()).item()


def test_older_gradients_make_up_the_slow_gradient():
    rule = trained_rule()
    full = slow_gradient(rule)
    newest = rule.history.newest().clone()
    rule.history.gradients.zero_()
    rule.history.gradients[(int(rule.history.count) - 1) % 5] = newest
    seen = slow_gradient(rule)
    assert relative_change(full, seen) > 0.01  # what the slow net makes of them
    rule.mean = newest * 0.1
    assert relative_change(full, slow_gradient(rule)) > 0.1


def test_the_embedding_tells_the_layers_apart():
    rule = trained_rule()
    before = slow_gradient(rule)
    embedding = rule.slow.layer_embedding.weight
    embedding.data = embedding.data.flip(0)
    assert relative_change(before, slow_gradient(rule)) > 1e-3


def test_the_update_keeps_its_size_whatever_the_gates_do():
    rule = trained_rule()
    gated = rule._direction(None).detach()
    nn.init.zeros_(rule.fast[-1].weight)
    nn.init.zeros_(rule.slow.mamba.out_proj.weight)
    plain = rule._direction(None).detach()
    for layer in range(2):
        of_layer = rule.layer_of == layer
        assert gated[of_layer].norm().item() == pytest.approx(plain[of_layer].norm().item(), rel=1e-5)
    assert relative_change(plain, gated) > 0.01


def test_switches():
    without_slow = trained_rule(slow=False)
    assert without_slow.slow is None
    torch.testing.assert_close(without_slow.mean, without_slow.history.newest())

    without_history = trained_rule(history=0)
    assert without_history.history.gradients.shape[0] == 1
    torch.testing.assert_close(without_history.mean, without_history.history.newest())

    without_embedding = trained_rule(embedding=False)
    assert without_embedding.slow.layer_embedding.weight.numel() == 0
    assert without_embedding.hypernetwork_parameters == trained_rule().hypernetwork_parameters - 2


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
    with pytest.raises(FsgError, match=r"alpha is 1\.1"):
        FSG(network(), lr=1, alpha=1.1)
    with pytest.raises(FsgError, match="history length is -1"):
        FSG(network(), lr=1, history=-1)
