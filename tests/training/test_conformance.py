"""The conformance check against the published code's vectors, and the equations written down once more."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from fsg.training import conformance


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


@pytest.mark.slow
def test_it_runs_as_a_program(small, tmp_path):
    np.savez(tmp_path / "small.npz", **small)
    command = [sys.executable, "-m", "fsg.training.conformance", str(tmp_path / "small.npz")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "quantities agree" in result.stdout
