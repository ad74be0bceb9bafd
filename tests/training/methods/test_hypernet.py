"""Scan, hypernetworks and history against float64 vectors from the published FSG code.

The published slow net reads one flat sequence, [embedding, last gradients of the whole layer], so here a layer is one
sequence; the per-weight rule feeds the same modules one sequence per weight.
"""

import numpy as np
import pytest
import torch

from fsg.training.methods.history import GradientHistory
from fsg.training.methods.hypernet import FastNet, SlowNet
from fsg.training.scan.plain import selective_scan

LAYERS = ("conv", "fc")


def tensor(array):
    return torch.from_numpy(np.asarray(array)).double()


@pytest.fixture
def slow(golden):
    prefix = "hyper/slow/"
    state = {key.removeprefix(prefix): tensor(value) for key, value in golden.items() if key.startswith(prefix)}
    net = SlowNet(layers=2, expand=100, states=16, kernel=8).double()
    net.load_state_dict(state)
    return net


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("layer", LAYERS)
def test_slow_gradient(golden, slow, layer, step):
    gradients = tensor(golden[f"in/{layer}/raw_grad"])
    history = torch.cat([g.flatten() for g in gradients[max(0, step - 4) : step + 1]])
    embedding = slow.layer_embedding(torch.tensor([LAYERS.index(layer)]))
    with torch.no_grad():
        output = slow.mamba(torch.cat([embedding, history[None]], 1)[..., None])
    expected = golden[f"fixed/t{step}/{layer}/slow_grad"]
    np.testing.assert_allclose(output[0, -expected.size :, 0].numpy(), expected.ravel(), rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("layer", LAYERS)
def test_fast_gradient(golden, layer, step):
    net = FastNet(100).double()
    for index, name in ((0, "linear1"), (2, "linear2"), (4, "linear3")):
        net[index].weight.data = tensor(golden[f"hyper/fast/{name}.weight"])
    seen = tensor(golden[f"fixed/t{step}/{layer}/pre_quantized_in"]).reshape(-1, 1)
    gradient = tensor(golden[f"in/{layer}/raw_grad"][step]).reshape(-1, 1)
    with torch.no_grad():
        fast = gradient * net(seen)
    expected = golden[f"fixed/t{step}/{layer}/fast_grad"].ravel()
    np.testing.assert_allclose(fast[:, 0].numpy(), expected, rtol=1e-10, atol=1e-20)


@pytest.mark.parametrize("hidden", [1, 7])
def test_linear_fast_net_is_its_layers_one_after_the_other(hidden):
    net = FastNet(hidden).double()
    x, upstream = torch.randn(2, 9, 1).double()
    gradients = torch.autograd.grad(net(x), list(net.parameters()), upstream)
    plain = torch.nn.Sequential(*net)
    torch.testing.assert_close(net(x), plain(x))
    torch.testing.assert_close(gradients, torch.autograd.grad(plain(x), list(net.parameters()), upstream))


def test_scan_is_the_recurrence():
    torch.manual_seed(0)
    n, steps, channels, states = 3, 5, 4, 2
    u, dt = torch.randn(channels, steps, n).double(), torch.rand(channels, steps, n).double()
    A, D = -torch.rand(channels, states).double(), torch.randn(channels).double()
    B, C = torch.randn(states, steps, n).double(), torch.randn(states, steps, n).double()
    y = selective_scan(u, dt, A, B, C, D)
    for last in (1, 3):
        torch.testing.assert_close(selective_scan(u, dt, A, B, C, D, last=last), y[:, -last:])
    for i in range(n):
        for e in range(channels):
            h = [0.0] * states
            for t in range(steps):
                step = dt[e, t, i]
                h = [float(torch.exp(step * A[e, s]) * h[s] + step * B[s, t, i] * u[e, t, i]) for s in range(states)]
                expected = sum(C[s, t, i] * h[s] for s in range(states)) + D[e] * u[e, t, i]
                assert abs(float(y[e, t, i] - expected)) < 1e-12


def test_sequences_are_independent_and_as_long_as_asked(slow):
    tokens = [torch.randn(n).double() for n in (9, 4, 1)]
    with torch.no_grad():
        for one, n, output in zip(tokens, (5, 4, 1), slow.mamba.sequences(tokens, [5, 4, 1]), strict=True):
            torch.testing.assert_close(output, slow.mamba(one[None, :, None])[0, -n:, 0])


def test_per_weight_sequences_do_not_mix(slow):
    """Weights are the batch axis: one weight's history moves only its own slow gradient."""
    history = torch.randn(6, 5).double()
    layer = torch.tensor([0, 0, 0, 1, 1, 1])
    with torch.no_grad():
        before = slow(history, layer)
        history[2, 0] += 1
        after = slow(history, layer)
    changed = (before != after).tolist()
    assert changed == [False, False, True, False, False, False]


def test_history_is_a_ring_in_order():
    history = GradientHistory(3, 2)
    assert history.ordered().tolist() == [[0, 0, 0], [0, 0, 0]]
    for value in range(1, 6):
        history.push(torch.tensor([value, -value], dtype=torch.float32))
        assert history.newest().tolist() == [value, -value]
    assert history.ordered().tolist() == [[3, 4, 5], [-3, -4, -5]]
    half_full = GradientHistory(3, 1)
    half_full.push(torch.tensor([7.0]))
    assert half_full.ordered().tolist() == [[0, 0, 7]]
    assert half_full.stored().tolist() == [[7]]
    assert history.stored().tolist() == [[3, -3], [4, -4], [5, -5]]
