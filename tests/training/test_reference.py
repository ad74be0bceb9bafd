"""FSG's reference variant against the published code's vectors and against its equations written down once more."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsg import FsgError
from fsg.training import conformance
from fsg.training.config import PRESETS, Config
from fsg.training.methods.fsg import FSG
from fsg.training.networks.layers import BinaryConv2d, BinaryLinear
from fsg.training.networks.quantizers import dorefa
from fsg.training.registry import make_rule

# ---- The equations of the published code, plainly: sequences token by token, layers one by one, float64 ----


def restated_mamba(p, tokens):
    """Outputs of all tokens [T], from a dictionary of parameters."""
    channels, taps = len(p["D"]), p["conv1d.weight"].shape[-1]
    x, z = p["in_proj.weight"][:channels] * tokens, p["in_proj.weight"][channels:] * tokens
    states = p["A_log"].shape[1]
    h, outputs = torch.zeros_like(p["A_log"]), []
    for t in range(len(tokens)):
        s = p["conv1d.bias"]
        for k in range(max(0, taps - 1 - t), taps):
            s = s + p["conv1d.weight"][:, 0, k] * x[:, t - taps + 1 + k]
        u = s * torch.sigmoid(s)
        projected = p["x_proj.weight"] @ u
        dt = torch.log1p(torch.exp(p["dt_proj.weight"][:, 0] * projected[0] + p["dt_proj.bias"]))
        h = torch.exp(-dt[:, None] * torch.exp(p["A_log"])) * h + (dt * u)[:, None] * projected[1 : 1 + states]
        y = h @ projected[1 + states :] + p["D"] * u
        outputs.append((p["out_proj.weight"][0] * y * z[:, t] * torch.sigmoid(z[:, t])).sum())
    return torch.stack(outputs)


def restated_level(weight):
    return torch.tanh(weight) / torch.tanh(weight).detach().abs().max() * 0.5 + 0.5


class RestatedAdam:
    def __init__(self):
        self.m, self.v, self.n = 0.0, 0.0, 0

    def direction(self, gradient):
        self.n += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        return math.sqrt(1 - 0.999**self.n) / (1 - 0.9**self.n) * self.m / (self.v**0.5 + 1e-8)


def restated(inputs, trace):
    """What the published code computes from a file's inputs: the arrays of one trace."""
    file = {key: torch.from_numpy(np.asarray(a)) for key, a in inputs.items() if not key.startswith("cfg/")}
    lr, alpha, length = (float(inputs[f"cfg/{name}"]) for name in ("lr", "alpha", "length"))
    squash = {"none": lambda x: x, "relu": torch.relu, "tanh": torch.tanh}[str(inputs["cfg/nonlinear"]).lower()]
    names = [key.split("/")[1] for key in file if key.endswith("/W0")]
    hyper = {key[6:]: a.clone().requires_grad_() for key, a in file.items() if key.startswith("hyper/")}
    mamba = {key[11:]: a for key, a in hyper.items() if key.startswith("slow/mamba.")}
    groups = [
        {"params": [a for key, a in hyper.items() if key.startswith(f"{net}/")], "lr": float(inputs[f"cfg/{net}_lr"])}
        for net in ("fast", "slow")
    ]
    meta = torch.optim.Adam(groups)
    weight = {name: file[f"in/{name}/W0"] for name in names}
    bias = {name: file[f"in/{name}/bias0"] for name in names if f"in/{name}/bias0" in file}
    level = {name: restated_level(weight[name]) for name in names}
    bias_gradient = {name: file[f"in/{name}/bias_grad0"] for name in bias}
    adams = {name: RestatedAdam() for name in names}
    bias_adams = {name: RestatedAdam() for name in bias}
    result = {}
    for t in range(len(file[f"in/{names[0]}/R"])):
        loss, ahead, ahead_bias, update = 0.0, {}, {}, {}
        for j, name in enumerate(names):
            raw, w = file[f"in/{name}/raw_grad"], weight[name]
            column = level[name].reshape(-1, 1)
            for i in (1, 2, 3):
                column = column @ hyper[f"fast/linear{i}.weight"].T
                column = squash(column) if i < 3 else column
            fast = raw[t] * column.reshape(w.shape)
            past = torch.cat([raw[i].reshape(-1) for i in range(max(0, t + 1 - int(length)), t + 1)])
            tokens = torch.cat([hyper["slow/layer_embedding.weight"][j], past])
            slow = restated_mamba(mamba, tokens)[-w.numel() :].reshape(w.shape)
            k = (1 - torch.tanh(w) ** 2) / torch.tanh(w).abs().max()
            m = w - lr * (alpha * slow + (1 - alpha) * k * fast)
            m.retain_grad()
            p = restated_level(m)
            q = 2 * p.detach().round() - 1 + 2 * (p - p.detach())
            loss = loss + (q * file[f"in/{name}/R"][t]).sum()
            ahead[name], update[name] = m, (k * fast).detach()
            recorded = {
                "pre_quantized_in": level[name],
                "W_in": w,
                "fast_grad": fast,
                "slow_grad": slow,
                "calibration": k,
                "meta_weight": m,
                "pre_quantized": p,
                "quantized": q.to(torch.int8),
            }
            level[name] = p.detach()
            if name in bias:
                ahead_bias[name] = (bias[name] - lr * bias_gradient[name]).requires_grad_()
                loss = loss + (ahead_bias[name] * file[f"in/{name}/Rb"][t]).sum()
                recorded |= {"bias_in": bias[name], "meta_bias": ahead_bias[name]}
            result |= {f"{trace}/t{t}/{name}/{quantity}": a for quantity, a in recorded.items()}
        loss.backward()
        result[f"{trace}/t{t}/loss"] = loss
        result |= {f"{trace}/t{t}/grad/{key}": a.grad.clone() for key, a in hyper.items()}
        if trace == "train":
            meta.step()
        meta.zero_grad()
        for name in names:
            refined = adams[name].direction(update[name])
            weight[name] = weight[name] - lr * refined
            recorded = {"dL_dW": ahead[name].grad, "refined": refined, "W_out": weight[name]}
            if name in bias:
                gradient = ahead_bias[name].grad
                bias_gradient[name] = bias_adams[name].direction(gradient)
                bias[name] = bias[name] - lr * bias_gradient[name]
                recorded |= {"dL_dbias": gradient, "refined_bias": bias_gradient[name], "bias_out": bias[name]}
            result |= {f"{trace}/t{t}/{name}/{quantity}": a for quantity, a in recorded.items()}
    if trace == "train":
        result |= {f"train/final/{key}": a for key, a in hyper.items()}
    return {key: a.detach().numpy().copy() for key, a in result.items()}


def random_inputs(
    seed=0, layers=(("a", (3, 2, 2, 3)), ("b.c", (4, 3))), biased=("b.c",), nonlinear="tanh", hidden=3, expand=3,
    d_state=2, d_conv=3, length=2, alpha=0.6, lr=0.05, steps=4,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    hyper = {
        "fast/linear1.weight": (hidden, 1),
        "fast/linear2.weight": (hidden, hidden),
        "fast/linear3.weight": (1, hidden),
        "slow/layer_embedding.weight": (len(layers), 1),
        "slow/mamba.A_log": (expand, d_state),
        "slow/mamba.D": (expand,),
        "slow/mamba.in_proj.weight": (2 * expand, 1),
        "slow/mamba.conv1d.weight": (expand, 1, d_conv),
        "slow/mamba.conv1d.bias": (expand,),
        "slow/mamba.x_proj.weight": (1 + 2 * d_state, expand),
        "slow/mamba.dt_proj.weight": (expand, 1),
        "slow/mamba.dt_proj.bias": (expand,),
        "slow/mamba.out_proj.weight": (1, expand),
    }
    values = {
        "cfg/meta": np.array("seed=0 " + " ".join(f"layer{i}={name}" for i, (name, _) in enumerate(layers))),
        "cfg/lr": np.array(lr),
        "cfg/alpha": np.array(alpha),
        "cfg/length": np.array(float(length)),
        "cfg/slow_lr": np.array(0.02),
        "cfg/fast_lr": np.array(0.05),
        "cfg/nonlinear": np.array(nonlinear),
        **{f"hyper/{key}": rng.normal(size=shape) * 0.7 for key, shape in hyper.items()},
    }
    for name, shape in layers:
        values[f"in/{name}/W0"] = rng.normal(size=shape) * 0.3
        values[f"in/{name}/raw_grad"] = rng.normal(size=(steps, *shape))
        values[f"in/{name}/R"] = rng.normal(size=(steps, *shape))
        if name in biased:
            values[f"in/{name}/bias0"] = rng.normal(size=shape[:1])
            values[f"in/{name}/bias_grad0"] = rng.normal(size=shape[:1])
            values[f"in/{name}/Rb"] = rng.normal(size=(steps, *shape[:1]))
    return values


def recorded(**settings):
    """A file's content with what the restated equations make of random inputs."""
    inputs = random_inputs(**settings)
    return {**inputs, **restated(inputs, "fixed"), **restated(inputs, "train")}


def run_conformance(path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["conformance", str(path)])
    return conformance.main()


@pytest.mark.slow
def test_the_restated_equations_are_the_published_code(golden):
    shortened = {
        key: a[:2] if key.endswith(("/R", "/Rb", "/raw_grad")) else a
        for key, a in golden.items()
        if key.startswith(("in/", "hyper/", "cfg/"))
    }
    shortened["cfg/nonlinear"] = np.array("none")
    found = restated(shortened, "train")
    compared = {key: golden[key] for key in golden if key.startswith(("train/t0/", "train/t1/"))}
    assert compared.keys() == {key for key in found if "final" not in key}
    for key, expected in compared.items():
        assert np.linalg.norm(found[key] - expected) <= 1e-11 * np.linalg.norm(expected), key


def test_the_published_vectors(golden, tmp_path):
    path = tmp_path / "golden.npz"
    np.savez(path, **golden)
    rows = conformance.compare(path)
    assert {row.quantity.split()[0] for row in rows} == {
        "fixed", "train", "quantiser_f32", "act_conv_f32", "act_fc_f32"
    }  # fmt: skip
    assert [row for row in rows if not row.passed] == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nonlinear": "relu", "hidden": 5, "alpha": 0.0, "biased": ()},
        {"nonlinear": "None", "alpha": 1.0, "length": 1, "d_conv": 1, "d_state": 1, "expand": 1, "hidden": 1},
        {"layers": (("z", (2, 5)), ("y", (3, 1, 1, 1)), ("x", (1, 4))), "biased": ("x", "z"), "length": 7, "steps": 6},
        {"nonlinear": "relu", "layers": (("only", (2, 3, 3, 3)),), "biased": (), "d_conv": 4, "expand": 6, "lr": 1e-3},
    ],
)
def test_any_shapes_and_settings(settings, tmp_path, monkeypatch, capsys):
    path = tmp_path / "random.npz"
    np.savez(path, **recorded(**settings))
    assert run_conformance(path, monkeypatch) == 0, capsys.readouterr().out


@pytest.fixture(scope="module")
def small():
    return recorded(steps=3)


@pytest.mark.parametrize(
    ("key", "disagrees"),
    [
        ("cfg/alpha", "meta_weight"),
        ("cfg/lr", "W_out"),
        ("cfg/fast_lr", "final/fast/linear1.weight"),
        ("hyper/slow/layer_embedding.weight", "slow_grad"),
        ("in/a/raw_grad", "fast_grad"),
        ("in/a/R", "dL_dW"),
        ("in/b.c/bias_grad0", "meta_bias"),
        ("train/t2/a/quantized", "quantized"),
        ("train/t1/grad/slow/mamba.A_log", "grad/slow/mamba.A_log"),
        ("train/t2/b.c/refined", "refined"),
    ],
)
def test_a_file_that_differs_in_one_value_fails(small, key, disagrees, tmp_path, monkeypatch, capsys):
    changed = small[key].copy()
    changed.flat[0] = -changed.flat[0] if changed.dtype == np.int8 else changed.flat[0] * (1 + 1e-6)
    np.savez(tmp_path / "changed.npz", **{**small, key: changed})
    assert run_conformance(tmp_path / "changed.npz", monkeypatch) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert any(line.startswith(f"train {disagrees} ") for line in failed)


def test_infinite_or_undefined_values_fail(small, tmp_path):
    for bad in (np.nan, np.inf):
        np.savez(tmp_path / "bad.npz", **{**small, "fixed/t1/loss": np.array(bad)})
        rows = {row.quantity: row for row in conformance.compare(tmp_path / "bad.npz")}
        assert not rows["fixed loss"].passed and rows["train loss"].passed


def test_layers_are_taken_in_the_order_that_the_file_names(small, tmp_path):
    backwards = dict(reversed(small.items()))
    np.savez(tmp_path / "backwards.npz", **backwards)
    assert all(row.passed for row in conformance.compare(tmp_path / "backwards.npz"))
    np.savez(tmp_path / "unnamed.npz", **{**backwards, "cfg/meta": np.array("")})
    assert not all(row.passed for row in conformance.compare(tmp_path / "unnamed.npz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("in/a/R"), "lacks in/a/R"),
        (lambda file: file.pop("train/t1/a/refined"), "lacks train/t1/a/refined"),
        (lambda file: file.update({"cfg/nonlinear": np.array("selu")}), "choose one of none, relu, tanh"),
        (lambda file: file.update({"cfg/length": np.array(0.5)}), "cfg/length is 0.5"),
        (lambda file: file.update({"cfg/lr": np.array("fast")}), "cfg/lr is <U4"),
        (lambda file: file.update({"in/a/W0": np.zeros((2, 2, 2))}), "in/a/W0 has 3 dimensions"),
        (lambda file: file.update({"in/a/R": np.zeros((3, 4))}), "in/a/R is float64 [3, 4]"),
        (lambda file: file.update({"in/a/raw_grad": np.zeros((0, 3, 2, 2, 3))}), "in/a/raw_grad is of shape"),
        (lambda file: file.update({"hyper/slow/mamba.A_log": np.zeros(3)}), "mamba.A_log is of shape"),
        (lambda file: [file.pop(key) for key in list(file) if key[:2] in ("fi", "tr")], "neither fixed/ nor train/"),
        (lambda file: file.update({"cfg/lr": np.array([{}], dtype=object)}), "is no .npz file of arrays"),
    ],
)
def test_a_broken_file_is_one_line_and_exit_code_2(small, change, message, tmp_path, monkeypatch, capsys):
    file = dict(small)
    change(file)
    np.savez(tmp_path / "broken.npz", **file)
    assert run_conformance(tmp_path / "broken.npz", monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "broken.npz" in error


def test_no_file_half_a_file_and_another_file(small, tmp_path, monkeypatch, capsys):
    whole, half = tmp_path / "whole.npz", tmp_path / "half.npz"
    np.savez_compressed(whole, **small)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    flipped = bytearray(whole.read_bytes())
    flipped[200:260] = bytes(60)
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for path in (tmp_path / "none.npz", half, tmp_path / "one.npy", tmp_path / "text.npz", tmp_path / "flipped.npz"):
        assert run_conformance(path, monkeypatch) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and path.name in error


def test_it_runs_as_a_program(small, tmp_path):
    np.savez(tmp_path / "small.npz", **small)
    command = [sys.executable, "-m", "fsg.training.conformance", str(tmp_path / "small.npz")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "quantities agree" in result.stdout


# ---- As a rule for training ----

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
