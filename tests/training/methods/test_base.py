"""Gradient rules: straight-through estimation, and FSG, which modulates it."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fsg import FsgError
from fsg.training.methods.base import STE
from fsg.training.methods.fsg import FSG, chosen
from fsg.training.methods.hyperfile import (
    DECAYS,
    INPUTS,
    OUTPUTS,
    SEEN,
    SHIPPED,
    Hypernetwork,
    read_hypernetwork,
    save_hypernetwork,
)
from fsg.training.methods.metaquant import MetaQuant
from fsg.training.methods.slow import orthogonalized
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
            loss = F.cross_entropy(model(x.to(model[0].weight)), y)
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return losses


def latent(model):
    return torch.cat([model[3].weight.detach().flatten(), model[7].weight.detach().flatten()])


def test_without_its_hypernetwork_fsg_is_adam_with_nesterovs_momentum():
    """Written down once more, in float64."""
    model = network().double()
    rule = FSG(model, lr=1e-2, alpha=0.8, beta1=0.7, beta2=0.95, hypernetwork="none")
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


def constant(**outputs):
    """A hypernetwork whose outputs are the same for all layers and steps."""
    return Hypernetwork.of({name: {"constant": value} for name, value in outputs.items()})


def random_net(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(OUTPUTS), len(INPUTS), generator=generator) / 4
    for name in ("spectral", "inward"):
        rows[OUTPUTS.index(name)] /= 4
        rows[OUTPUTS.index(name), 0] = 0.5  # within their bounds
    return Hypernetwork(tuple(map(tuple, rows.tolist())))


def trained_rule(model, net, steps=30, **settings):
    rule = FSG(model, lr=1e-2, hypernetwork=net, **settings)
    rule.steps = 2520
    train(model, rule, steps)
    return rule


def direction(rule, model):
    rule.lr = 1e-2
    return rule._direction(latent(model))


def relative_change(before, after):
    return ((after - before).norm() / before.norm()).item()


def test_a_hypernetwork_of_zeros_changes_nothing_to_the_last_digit():
    """Also where every part of the rule is computed."""
    torch.set_num_threads(1)
    weights = []
    for computed in (False, True):
        model = network()
        rule = FSG(model, lr=1e-2, hypernetwork="none")
        if computed:
            rule.slow.used = set(OUTPUTS)
            rule.slow.remembers = True
        train(model, rule, 8)
        weights.append(latent(model))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_every_output_and_every_input_has_a_part_in_the_update():
    model = network()
    rule = trained_rule(model, random_net())
    before, kept = direction(rule, model), rule.slow.weights.clone()
    for index in range(len(OUTPUTS)):
        rule.slow.weights[index] = 0
        assert relative_change(before, direction(rule, model)) > 1e-4, OUTPUTS[index]
        rule.slow.weights.copy_(kept)
    for index, name in enumerate(INPUTS):
        rule.progress = 0.7
        whole = direction(rule, model)
        rule.slow.weights[:, index] = 0
        if name != "depth" or len(rule.sizes) > 1:
            assert relative_change(whole, direction(rule, model)) > 1e-4, name
        rule.slow.weights.copy_(kept)


def test_the_update_is_what_its_formula_says():
    """Written down once more, in float64, layer by layer, with all parts at once."""
    model = network().double()
    rule = trained_rule(model, random_net(1), steps=12)
    rule.progress = 0.4
    w, step = latent(model), rule.count
    found = direction(rule, model)
    rms = (rule.square / (1 - 0.9**step)).sqrt() + 1e-8
    rule.rms = rms
    z = rule.slow.weights @ rule.slow.inputs(0.4, 2520)
    start = 0
    for layer, size in enumerate(rule.sizes):
        part = slice(start, start + size)
        start += size
        of = dict(zip(OUTPUTS, z[:, layer].tolist(), strict=True))
        weight, r = w[part], rms[part]
        g, M = rule.newest[part] / r, rule.mean[part] / (1 - 0.9**step) / r
        alpha = 1 / (1 + math.exp(-of["mix"]))
        v = alpha * M + (1 - alpha) * g
        shape = model[3].weight.shape if layer == 0 else model[7].weight.shape
        flat = newton_schulz(v.view(shape)).flatten()
        share = min(max(of["spectral"], 0), 1)
        v = (1 - share) * v + share * flat * v.norm() / flat.norm()
        v = v + 0.2 * max(of["inward"], 0) * torch.sign(weight) * (weight.abs() > 0.05)
        u = math.exp(min(max(of["step"], -1), 1)) * v
        torch.testing.assert_close(found[part], u)


def newton_schulz(tensor):
    """As Muon's authors write it, without its shortcuts."""
    x = tensor.flatten(1)
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tensor.flatten(1).shape[0] > tensor.flatten(1).shape[1] else x).reshape(tensor.shape)


def test_orthogonalized_agrees_with_the_plain_iteration():
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 16, 3, 3), (32, 16, 3, 3), (10, 64), (64, 10), (16, 16, 3, 3), (1, 5), (7, 1), (40, 3, 1, 1)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for tensor, found in zip(tensors, orthogonalized(tensors), strict=True):
        torch.testing.assert_close(found, newton_schulz(tensor))
        values = torch.linalg.svdvals(found.flatten(1))
        assert values.min() > 0.6 and values.max() < 1.25
    zero = orthogonalized([torch.zeros(3, 4)])[0]
    assert torch.equal(zero, torch.zeros(3, 4))


def test_the_slow_net_sees_flips_their_credit_and_the_turns_of_the_gradient():
    model = network().double()
    rule = FSG(model, lr=3e-2, hypernetwork=random_net())
    sums = torch.zeros(2, 2, dtype=torch.float64)  # of the credit and of the flips, in each layer
    course, gradients, parts = [], [], (slice(0, 576), slice(576, None))
    for step in range(6):
        before = latent(model)
        train(model, rule, 1, start=step)
        gradients.append(rule.newest.clone())
        if step == 0:
            continue
        after = latent(model)
        flips = (before > 0) != (after > 0)
        credit = torch.where(flips, -gradients[-1] * torch.sign(after) / rule.rms, 0.0)
        now = []
        for layer, part in enumerate(parts):
            sums[:, layer] = 0.95 * sums[:, layer] + 0.05 * torch.stack([credit[part].sum(), flips[part].sum()])
            cosine = F.cosine_similarity(gradients[-1][part], gradients[-2][part], dim=0)
            share = flips[part].double().mean() / 0.003
            now.append(torch.stack([1 + sums[0, layer] / sums[1, layer] / 0.1, cosine, share.clamp(0.01).log10()]))
        course.append(torch.stack(now, 1))  # [values, layers]
    assert (sums[1] > 0).all()
    seen = dict(zip(INPUTS, rule.slow.inputs(0.25, 2520), strict=True))
    for decay in DECAYS:
        weights = torch.tensor([decay ** (len(course) - 1 - i) for i in range(len(course))], dtype=torch.float64)
        mean = torch.einsum("t,tvl->vl", weights / weights.sum(), torch.stack(course))
        for name, expected in zip(SEEN, mean, strict=True):
            torch.testing.assert_close(seen[f"{name}@{decay:g}"], expected, rtol=1e-5, atol=1e-6)
    assert seen["progress"].tolist() == [-0.5, -0.5] and seen["depth"].tolist() == [-1.0, 1.0]
    assert seen["one_bit"].tolist() == seen["length"].tolist() == [1.0, 1.0]
    assert seen["fan_in"].tolist() == pytest.approx([math.log2(72) / 2 - 4, -1.5])


def test_switches():
    model = network()
    without_slow = trained_rule(model, random_net(), slow=False)
    assert not without_slow.slow.used and without_slow.hypernetwork_parameters == len(INPUTS) * len(OUTPUTS)
    torch.testing.assert_close(without_slow.mean, without_slow.newest)

    without_history = trained_rule(network(), random_net(), history=0)
    assert not without_history.slow.seen.any() and not without_history.slow.remembers
    torch.testing.assert_close(without_history.mean, without_history.newest)

    assert not trained_rule(network(), random_net(), embedding=False).slow.kind.any()


def test_a_file_holds_a_hypernetwork(tmp_path, refused):
    path = tmp_path / "net.json"
    net = random_net(3)
    save_hypernetwork(replace(net, made={"command": "fsg meta-train", "seeds": [1]}), path)
    assert read_hypernetwork(path) == net and read_hypernetwork(path).made["seeds"] == [1]
    assert chosen("none") == Hypernetwork() and chosen("") == read_hypernetwork(SHIPPED)
    text = path.read_text()
    for content, reason in {
        "": "damaged or no hypernetwork",
        text[: len(text) // 2]: "damaged or no hypernetwork",
        "[]": "it is no hypernetwork",
        text.replace('"version": 2', '"version": 1'): "its version is 1",
        text.replace('"depth"', '"height"'): "do not fit",
        text.replace('"inward": [', '"inward": [1.5, '): "do not fit",
        text.replace('"inward": [', '"inward": [NaN, '): "do not fit",
        text.replace('"weights"', '"numbers"'): "do not fit",
    }.items():
        path.write_text(content)
        assert reason in refused("train", "--dataset", "digits", "--hypernetwork", str(path))
    assert "No such file" in refused("train", "--dataset", "digits", "--hypernetwork", "nothing.json")


def test_a_setting_of_the_other_variant_is_refused():
    with pytest.raises(FsgError, match="slow lr is no setting of FSG's variant per-weight"):
        FSG(network(), lr=1, slow_lr=1e-3)
    with pytest.raises(FsgError, match="hypernetwork is no setting of FSG's variant reference"):
        FSG(network(), lr=1, variant="reference", hypernetwork="none")


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


class Waits(TorchDispatchMode):
    """Notes the operations for which a program waits until a GPU has done all before, or which copy to it from here."""

    names = ("aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition(".")[0]
        self.found += [name] if name in self.names else []
        return function(*args, **(kwargs or {}))


RULES = {
    "ste": STE,
    "fsg without a net": partial(FSG, hypernetwork="none"),
    "fsg": partial(FSG, hypernetwork=random_net()),
    "metaquant": MetaQuant,
}


@pytest.mark.parametrize("name", RULES)
def test_a_step_does_not_wait_for_a_gpu(name, monkeypatch):
    model = network()
    rule = RULES[name](model, lr=1e-2)
    train(model, rule, 2)
    x, y = batch(2)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)  # its own counters stay on the CPU
    with Waits() as waits:
        with rule.lookahead():
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        rule.step()
    assert not waits.found


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
