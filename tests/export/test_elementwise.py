"""Every operator on single values means in the graph, and in each format, what its layer computes in PyTorch."""

import numpy as np
import pytest
import torch
from networks import exact
from torch import nn
from torch.nn import functional as F

from fsg.export import graph as g
from fsg.export.elementwise import OPERATORS
from fsg.export.formats.onnx import to_onnx
from fsg.export.formats.tflite.write import to_tflite
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.runtime.model.session import open_model

VALUES = torch.cat([torch.linspace(-8, 8, 65), torch.tensor([0.0, -0.0, 3.0, -3.0, 6.0, 1e-4, -1e-4])])
IMAGES = VALUES.repeat(3)[: 3 * 72].view(1, 3, 8, 9)
SETTINGS = {"Hardtanh": (-0.5, 2.25), "LeakyReLU": (0.3,), "ELU": (1.5,)}


class Calls(nn.Module):
    """A network that calls a function, or the method of that name."""

    def __init__(self, function, settings):
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, x):
        if isinstance(self.function, str):
            return getattr(x, self.function)(*self.settings)
        return self.function(x, *self.settings)


def spellings():
    for name, operator in OPERATORS.items():
        settings = SETTINGS.get(name, ())
        if hasattr(nn, name):
            yield f"{name}-layer", getattr(nn, name)(*settings)
            yield f"{name}-default", getattr(nn, name)()
        for function in operator.functions:
            for home in (F, torch):
                if hasattr(home, function) and not (home is torch and settings):
                    yield f"{home.__name__}.{function}", Calls(getattr(home, function), settings)
            if hasattr(torch.Tensor, function) and not settings:
                yield f"x.{function}", Calls(function, ())


SPELLINGS = dict(spellings())


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_layer_or_function_becomes_its_operator(name):
    model = SPELLINGS[name]
    graph = trace(nn.Sequential(model), (3, 8, 9))
    assert graph.count(g.Elementwise) == 1
    value = run_graph(graph, IMAGES.numpy())[graph.nodes[-1].name]
    torch.testing.assert_close(torch.from_numpy(value), model(IMAGES.clone()), rtol=1e-6, atol=1e-6, equal_nan=True)


def layer_of(name):
    """The layer, or the function on values that it can take."""
    if hasattr(nn, name):
        return getattr(nn, name)(*SETTINGS.get(name, ()))
    (function, *_) = OPERATORS[name].functions
    if name in ("Log", "Sqrt"):
        return Calls(lambda x: getattr(torch, function)(x.abs() + 0.5), ())
    return Calls(lambda x: getattr(torch, function)(x.clamp(max=2) + 0.0123), ())  # no sign of exactly 0


def network(name):
    """An operator on its own values, on those of a convolution, and in front of a padded pooling and a sign."""
    layers = [layer_of(name), nn.Conv2d(3, 8, 3, padding=1), layer_of(name)]
    return exact(nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))


def check(model, content, path):
    path.write_bytes(content)
    images = torch.randn(4, 3, 8, 9, generator=torch.Generator().manual_seed(3)) * 4
    images[0] = IMAGES[0]
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    np.testing.assert_allclose(open_model(path)(images.numpy()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_onnx(name, tmp_path):
    model = network(name)
    check(model, to_onnx(simplify(trace(model, (3, 8, 9))), {}), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in OPERATORS.items() if row.tensorflow])
def test_tflite(name, tmp_path):
    model = network(name)
    check(model, to_tflite(simplify(trace(model, (3, 8, 9))), writer="lce")[0], tmp_path / "model.tflite")
