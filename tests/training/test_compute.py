"""Precision and compilation change how the network is computed, not what."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from fsg import FsgError
from fsg.training.checkpoint import read_checkpoint
from fsg.training.compute import default_precision, forward_function
from fsg.training.config import Config, save_config
from fsg.training.loop import train
from fsg.training.methods.fsg import FSG
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear
from fsg.training.run import open_run

CPU = torch.device("cpu")


def network(gradient="polynomial"):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        BinaryActivation(gradient),
        BinaryConv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        BinaryLinear(32, 4),
    )


def losses(steps, *, compile, gradient="polynomial"):
    """Those of FSG in float64; after two steps nothing may be compiled anew."""
    with default_precision("float64"):
        model = network(gradient)
        rule = FSG(model, lr=1e-2)
        forward = forward_function(model, CPU, precision="float64", compile=compile)
        generator, result = torch.Generator().manual_seed(0), []
        for step in range(steps):
            if compile and step == 2:
                torch.compiler.set_stance("fail_on_recompile")
            rule.progress = step / steps
            x = torch.randn(16, 3, 8, 8, generator=generator)
            y = torch.randint(0, 4, (16,), generator=generator)
            with rule.lookahead():
                loss = F.cross_entropy(forward(x), y)
            loss.backward()
            rule.step()
            result.append(loss.item())
    return result


@pytest.fixture
def recompiling_allowed_again():
    yield
    torch.compiler.set_stance("default")


@pytest.mark.slow
@pytest.mark.usefixtures("recompiling_allowed_again")
@pytest.mark.parametrize("gradient", ["polynomial", "ede"])
def test_the_compiled_network_uses_the_weights_lent_in_every_step(gradient):
    plain, compiled = (losses(7, compile=compile, gradient=gradient) for compile in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-9)
    assert len(set(plain)) == 7


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FsgError, match="needs a C\\+\\+ compiler and there is no no-such-compiler"):
        forward_function(network(), CPU, precision="float32", compile=True)


def test_bf16_keeps_parameters_statistics_and_logits_in_float32():
    model = network()
    inner = {}
    model[3].register_forward_hook(lambda module, given, out: inner.update(dtype=out.dtype))
    x = torch.randn(16, 3, 8, 8)
    logits = forward_function(model, CPU, precision="bf16", compile=False)(x)
    logits.sum().backward()
    assert inner["dtype"] == torch.bfloat16 and logits.dtype == torch.float32
    kept = [*model.parameters(), *(p.grad for p in model.parameters()), model[1].running_var, model[4].running_mean]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    plain = forward_function(network(), CPU, precision="float32", compile=False)(x)
    assert 0 < (logits - plain).norm() < 0.3 * plain.norm()


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("ste", "bf16"),
        ("fsg", "float64"),
        pytest.param("ste", "float64", marks=pytest.mark.slow),
        pytest.param("fsg", "bf16", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_any_precision_is_read_in_float32_and_continues(tiny_npz, tmp_path, method, precision):
    config = Config(dataset=f"npz:{tiny_npz}", method=method, epochs=1, batch_size=16, precision=precision)
    save_config(config, tmp_path / "config.toml")
    summary = train(config, tmp_path, Console(quiet=True))
    assert torch.get_default_dtype() == torch.float32
    saved = read_checkpoint(tmp_path)
    expected = torch.float64 if precision == "float64" else torch.float32
    floats = [tensor.dtype for tensor in saved["model"].values() if tensor.is_floating_point()]
    assert set(floats) == {expected}
    if method == "fsg":
        assert saved["rule"]["mean"].dtype == expected

    run = open_run(tmp_path)
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert run(np.zeros((2, 3, 8, 8), np.float32)).dtype == np.float32
    config = Config(**{**vars(config), "epochs": 2})
    assert train(config, tmp_path, Console(quiet=True))["epochs"] == 2 == summary["epochs"] + 1
