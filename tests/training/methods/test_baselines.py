"""The methods that FSG is compared with: their quantisers, MetaQuant against its equations, and all of them on data."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import DataInfo
from fsg.training.methods.base import STE
from fsg.training.methods.metaquant import METANETS, MetaQuant
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear, binary_layers
from fsg.training.networks.network import model_for
from fsg.training.networks.quantizers import WEIGHT_QUANTIZERS, ede_sharpness, irnet, sign
from fsg.training.registry import make_rule

# --- quantisers -------------------------------------------------------------------------------------------


def irnet_surrogate(weight, sharpness):
    """What IR-Net's backward pass differentiates: c k tanh(t v), with v standardised and c a power of two."""
    channels = []
    for channel in weight:
        v = (channel - channel.mean()) / channel.std()
        c = 2.0 ** round(math.log2(v.detach().abs().mean().item()))
        channels.append((c, v))
    k = max(1 / sharpness, 1)
    forward = torch.stack([c * torch.where(v < 0, -torch.ones_like(v), 1) for c, v in channels])
    return forward, torch.stack([c * k * torch.tanh(sharpness * v) for c, v in channels])


@pytest.mark.parametrize("sharpness", [0.1, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (5, 7), (2, 9, 1, 1)])
def test_irnet_is_its_formula(sharpness, shape):
    torch.manual_seed(sum(shape))
    weight = (torch.randn(shape).double() * torch.rand(shape).double() ** 3 + 0.1).requires_grad_()
    upstream = torch.randn(shape).double()
    forward, surrogate = irnet_surrogate(weight, sharpness)
    (expected,) = torch.autograd.grad(surrogate, weight, upstream)
    quantised = irnet(weight, sharpness)
    (gradient,) = torch.autograd.grad(quantised, weight, upstream)
    torch.testing.assert_close(quantised, forward, rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sharpness", [0.1, 0.7, 1.0, 3.0, 10.0])
def test_the_error_decay_estimator_is_the_gradient_of_its_tanh(sharpness):
    x = (torch.arange(-30, 31).double() / 10).requires_grad_()
    upstream = torch.randn(61).double()
    (expected,) = torch.autograd.grad(max(1 / sharpness, 1) * torch.tanh(sharpness * x), x, upstream)
    y = sign(x, "ede", sharpness)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    torch.testing.assert_close(gradient, expected)
    assert y.tolist() == [-1.0] * 30 + [1.0] * 31


def test_sharpness_rises_from_a_tenth_to_ten_over_the_training():
    assert [ede_sharpness(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx([0.1, 10**-0.5, 1, 10])
    layers = [BinaryActivation("ede"), BinaryConv2d(2, 2, 1, quantizer="irnet"), BinaryActivation(), BinaryLinear(2, 2)]
    model = nn.Sequential(*layers)
    rule = STE(model, lr=1)
    assert [module.sharpness for module in model] == [0.1] * 4
    x = torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)

    def slopes():
        leaf = x.clone().requires_grad_()
        model[0](leaf).sum().backward()
        return leaf.grad.flatten().tolist()

    early = slopes()
    rule.progress = 0.75
    assert rule.progress == 0.75
    assert [module.sharpness for module in model] == pytest.approx([10**0.5, 10**0.5, 0.1, 0.1])
    expected = [10**0.5 * (1 - math.tanh(10**0.5 * value) ** 2) for value in (0.5, 2.0)]
    assert slopes() == pytest.approx(expected, abs=1e-6) and early == pytest.approx([1, 1], abs=0.05)


@pytest.mark.parametrize("quantizer", WEIGHT_QUANTIZERS)
def test_binary_weights_have_exactly_two_values_per_channel(quantizer):
    torch.manual_seed(3)
    for layer in (BinaryConv2d(5, 6, 3, quantizer=quantizer), BinaryLinear(40, 7, quantizer=quantizer)):
        for channel in layer.binary_weight().detach():
            low, high = channel.unique().tolist()
            assert -low == high > 0


# --- MetaQuant --------------------------------------------------------------------------------------------


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = BinaryLinear(6, 5, bias=False), BinaryLinear(5, 3, bias=False)

    def forward(self, x):
        return torch.tanh(x @ self.one.binary_weight().T / 3) @ self.two.binary_weight().T


def refine(metanet, nonlinearity, parameters, gradient, level, memory):
    """The meta networks written down once more: one weight tensor's refined gradient, and the LSTM's new memory."""
    activation = {"none": lambda x: x, "tanh": torch.tanh, "relu": torch.relu}[nonlinearity]
    g, p = gradient.reshape(-1, 1), level.reshape(-1, 1)
    if metanet == "lstm":
        w_in, w_rec, b_in, b_rec, w_out, b_out = parameters
        hidden, cell = memory
        i, f, c, o = (p @ w_in.T + b_in + hidden @ w_rec.T + b_rec).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return (g * (hidden @ w_out.T + b_out)).view_as(gradient), (hidden.detach(), cell.detach())
    x = g if metanet == "fc-grad" else p
    for weight in parameters[:-1]:
        x = activation(x @ weight.T)
    x = x @ parameters[-1].T
    return (x if metanet == "fc-grad" else g * x).view_as(gradient), memory


@pytest.mark.parametrize(
    ("metanet", "nonlinearity"),
    [("fc-grad", "none"), ("fc-grad", "tanh"), ("multi-fc", "none"), ("multi-fc", "relu"), ("lstm", "none")],
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_metaquant_is_its_equations(metanet, nonlinearity, optimizer):
    """Written down once more in float64, layer by layer, with the whole objective left to autograd. The gradients are
    halved before the step, as averaging over processes may change them."""
    torch.manual_seed(5)
    model, lr, hidden, steps = TwoLayers().double(), 0.03, 4, 7
    rule = MetaQuant(
        model,
        lr=lr,
        optimizer=optimizer,
        beta1=0.8,
        metanet=metanet,
        nonlinearity=nonlinearity,
        hidden=hidden,
        fast_lr=0.05,
    )
    meta = [parameter.detach().clone().requires_grad_() for parameter in rule.net.parameters()]
    start = [parameter.clone() for parameter in meta]
    meta_optimizer = torch.optim.Adam(meta, lr=0.05)
    weights = [model.one.weight.detach().clone(), model.two.weight.detach().clone()]
    moved = [nn.Parameter(weight.clone()) for weight in weights]
    adam = optimizer == "adam"
    pi = torch.optim.Adam(moved, lr=lr, betas=(0.8, 0.999)) if adam else torch.optim.SGD(moved, lr=lr, momentum=0.8)
    memory = [(torch.zeros(weight.numel(), hidden).double(),) * 2 for weight in weights]
    stored = []
    for step in range(steps):
        x, target = torch.randn(8, 6).double(), torch.randn(8, 3).double()
        ahead = [weight.clone() for weight in weights]
        if stored:
            refined = []
            for j, weight in enumerate(weights):
                refined_one, memory[j] = refine(metanet, nonlinearity, meta, *stored[j], memory[j])
                squashed = torch.tanh(weight)
                refined.append((1 - squashed**2) / squashed.abs().max() * refined_one)
                moved[j].grad = refined[j].detach()
            pi.step()
            for j, g in enumerate(refined):
                direction = (weights[j] - moved[j].detach()) / lr
                ahead[j] = weights[j] - lr * (g + (direction - g).detach())
        levels = [torch.tanh(w) / torch.tanh(w).abs().max().detach() * 0.5 + 0.5 for w in ahead]
        binary = [2 * (p + (p.round() - p).detach()) - 1 for p in levels]
        for q in binary:
            if q.requires_grad:
                q.retain_grad()
            else:
                q.requires_grad_()
        loss = 0.5 * F.mse_loss(torch.tanh(x @ binary[0].T / 3) @ binary[1].T, target)
        loss.backward()
        if stored:
            meta_optimizer.step()
            meta_optimizer.zero_grad()
        stored = [(q.grad.clone(), p.detach()) for q, p in zip(binary, levels, strict=True)]
        weights = [weight.detach() for weight in ahead]

        with rule.lookahead():
            own_loss = F.mse_loss(model(x), target)
        own_loss.backward()
        for gradient in rule.gradients():
            gradient.mul_(0.5)
        rule.step()
        assert own_loss.item() / 2 == pytest.approx(loss.item(), rel=1e-12), step
        for layer, weight in zip((model.one, model.two), weights, strict=True):
            torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-9, atol=1e-12)
        for parameter, expected in zip(rule.net.parameters(), meta, strict=True):
            torch.testing.assert_close(parameter, expected, rtol=1e-7, atol=1e-10, msg=str(step))
    assert max((a - b).abs().max().item() for a, b in zip(meta, start, strict=True)) > 0.01


@pytest.mark.parametrize("metanet", METANETS)
def test_the_first_update_of_metaquant_descends(metanet):
    for seed in range(6):
        torch.manual_seed(seed)
        model = TwoLayers()
        rule = MetaQuant(model, lr=1e-3, metanet=metanet)
        x, target = torch.randn(8, 6), torch.randn(8, 3)
        for _ in range(2):
            with rule.lookahead():
                if rule.count:
                    moved = rule.ahead.weights - rule.latent()
                F.mse_loss(model(x), target).backward()
            if not rule.count:
                rule.step()
        assert (moved * rule.state.gradient).sum() < 0, seed


def test_what_metaquant_cannot_do_is_refused():
    with pytest.raises(FsgError, match="no binary layer"):
        MetaQuant(nn.Linear(2, 2), lr=1)
    with pytest.raises(FsgError, match="MetaQuant is not defined for the quantiser irnet: use dorefa"):
        MetaQuant(BinaryLinear(2, 2, quantizer="irnet"), lr=1)
    with pytest.raises(FsgError, match="unknown meta network 'mlp': choose one of fc-grad"):
        MetaQuant(TwoLayers(), lr=1, metanet="mlp")
    with pytest.raises(FsgError, match="LSTM has no nonlinearity tanh"):
        MetaQuant(TwoLayers(), lr=1, metanet="lstm", nonlinearity="tanh")
    with pytest.raises(RuntimeError, match="backward"):
        MetaQuant(TwoLayers(), lr=1).step()


# --- all methods ------------------------------------------------------------------------------------------


def settings(method, bits=1, **others):
    return Config(method=method, activation_bits=bits, **others)


def run_of(config, data):
    torch.manual_seed(0)
    model = model_for(config, DataInfo(data.class_names, data.mean, data.std, data.shape))
    return model, make_rule(config, model)


@pytest.fixture(scope="module")
def digits():
    """At half their size, 16x16."""
    data = load_dataset("digits")
    return replace(data, x_train=data.x_train[..., ::2, ::2], x_test=data.x_test[..., ::2, ::2])


def train(model, rule, data, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        rule.progress = step / 20
        part = slice(step % 4 * 32, step % 4 * 32 + 32)
        x = (torch.from_numpy(data.x_train[part]).float() / 255 - data.mean[0]) / data.std[0]
        with rule.lookahead():
            loss = F.cross_entropy(model(x), torch.from_numpy(data.y_train[part]))
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("ste", 1),
        ("sign-ste", 32),
        ("metaquant", 1),
        ("irnet", 32),
        pytest.param("ste", 32, marks=pytest.mark.slow),
        pytest.param("sign-ste", 1, marks=pytest.mark.slow),
        pytest.param("metaquant", 32, marks=pytest.mark.slow),
        pytest.param("irnet", 1, marks=pytest.mark.slow),
    ],
)
def test_every_baseline_learns_digits(method, bits, digits):
    """MetaQuant by a small rate of its own: at the paper's, its multiplier may pass through zero at first."""
    losses = train(*run_of(settings(method, bits, fast_lr=1e-4), digits), digits, 24)
    assert sum(losses[-4:]) < 0.75 * sum(losses[:4])


@pytest.mark.parametrize(
    ("method", "others"),
    [
        ("sign-ste", {}),
        ("irnet", {"optimizer": "sgd"}),
        ("metaquant", {"metanet": "lstm"}),  # the one with a memory
        *(
            pytest.param("metaquant", {"metanet": metanet}, marks=pytest.mark.slow)
            for metanet in METANETS
            if metanet != "lstm"
        ),
        ("metaquant", {"optimizer": "sgd", "nonlinearity": "tanh", "hidden": 8}),
    ],
)
def test_a_run_continues_exactly_from_its_state(method, others, digits, tmp_path):
    torch.set_num_threads(1)
    config = settings(method, **others)
    model, rule = run_of(config, digits)
    train(model, rule, digits, 3)
    torch.save({"model": model.state_dict(), "rule": rule.state_dict()}, tmp_path / "state.pt")
    expected = train(model, rule, digits, 3, start=3)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    model, rule = run_of(config, digits)
    model.load_state_dict(saved["model"])
    rule.load_state_dict(saved["rule"])
    assert train(model, rule, digits, 3, start=3) == expected


@pytest.mark.parametrize(
    ("method", "weights", "activations"),
    [
        ("fsg", "dorefa", "polynomial"),
        ("ste", "dorefa", "polynomial"),
        ("sign-ste", "scaled-sign", "polynomial"),
        ("metaquant", "dorefa", "polynomial"),
        ("irnet", "irnet", "ede"),
    ],
)
def test_every_method_has_its_quantisers_unless_told_otherwise(method, weights, activations, digits):
    def quantizers(config):
        model, _ = run_of(config, digits)
        signs = {module.gradient for module in model.modules() if isinstance(module, BinaryActivation)}
        return {layer.quantizer for layer in binary_layers(model).values()}, signs

    assert quantizers(settings(method, first_last="binary")) == ({weights}, {activations})
    assert quantizers(settings(method, activation_gradient="clipped")) == ({weights}, {"clipped"})
    if method != "metaquant":
        assert quantizers(settings(method, quantizer="scaled-sign")) == ({"scaled-sign"}, {activations})


def test_settings_of_the_meta_network_reach_it(digits):
    _, rule = run_of(settings("metaquant", metanet="lstm", hidden=3, fast_lr=0.25), digits)
    assert rule.net.memory_width == 3 and rule.meta_optimizer.param_groups[0]["lr"] == 0.25
    assert rule.hypernetwork_parameters == 4 * 3 * (1 + 3 + 2) + 4
