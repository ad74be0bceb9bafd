"""What people write becomes a graph that computes the same, and a file of every format."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch

from fsg.export.formats.onnx import to_onnx
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace

from .patterns import PATTERNS, SHAPE


def settled(model, seed=0):
    """The same with statistics and weights of its own, in evaluation mode."""
    model, random = torch.nn.Sequential(copy.deepcopy(model)), torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
    return model.eval()


def images(count=4):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_means_the_same(name):
    model, x = settled(PATTERNS[name]), images()
    with torch.no_grad():
        expected = model(x.clone()).numpy()
    read = trace(model, SHAPE)
    for graph in (read, simplify(read)):
        values = run_graph(graph, x.numpy())
        np.testing.assert_allclose(values[graph.nodes[-1].name], expected, rtol=2e-4, atol=2e-5)
        assert all(values[node.name].shape[1:] == node.shape[1:] for node in graph.nodes)


@pytest.mark.parametrize("batch", [2, None])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_as_onnx(name, batch):
    model, x = settled(PATTERNS[name]), images()
    with torch.no_grad():
        expected = model(x.clone()).numpy()
    content = to_onnx(simplify(trace(model, SHAPE)), {}, batch=batch)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    parts = x.split(batch or 4)
    found = np.concatenate([session.run(None, {"image": part.numpy()})[0] for part in parts])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
