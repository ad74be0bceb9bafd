"""TensorFlow Lite without a converter: every node computes what it means, on the operators that it should."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from networks import assert_same, images, outputs, random_network

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.formats.tflite.direct import lower, to_tflite_direct
from fsg.export.formats.tflite.flat import to_flatbuffer
from fsg.export.passes import simplify
from fsg.export.reference import compute, run_graph
from fsg.export.trace import trace
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts
from fsg.training.networks.layers import BinaryActivation

SIGN = BinaryActivation


def of_nodes(shape, *nodes):
    """A graph of an image [C, H, W] and a chain of nodes; missing inputs are the node before, shapes are computed."""
    found = [g.Input(name="image", shape=(1, *shape))]
    values = {"image": np.zeros((1, *shape), np.float32)}
    for i, node in enumerate(nodes):
        needs = not isinstance(node, g.Constant)
        inputs = node.inputs or ((found[-1].name,) if needs else ())
        node = replace(node, name=node.name or f"n{i}", inputs=inputs)
        values[node.name] = compute(node, [values[name] for name in inputs])
        found.append(replace(node, shape=values[node.name].shape))
    return g.BinaryGraph(tuple(found))


def node(kind, *shape, inputs=(), name="", **fields):
    return kind(name=name, inputs=inputs, shape=shape, **fields)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tflite"


def scores(path, content, x, **options):
    path.write_bytes(content)
    return open_model(path, **options)(x)


def check(graph, path, x=None, *, batch=1, exactly=False, count=5):
    """Compares what a graph's file computes with what the graph means, fused and not; returns the operators."""
    shape = graph.nodes[0].shape[1:]
    if x is None:
        x = images(count, *shape).numpy()
    expected = run_graph(graph, x)[graph.nodes[-1].name]
    if expected.ndim == 4:
        expected = expected.transpose(0, 2, 3, 1)
    expected = expected.reshape(len(x), -1)
    for fused in (False, True):
        content = to_flatbuffer(lower(graph, batch, fused=fused))
        found = scores(path, content, x)
        if exactly:
            np.testing.assert_array_equal(found, expected)
        else:
            assert_same(found, expected)
    return op_counts(content)


# --- the networks of today --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("one_bit", [True, False])
def test_random_networks(seed, one_bit, path):
    model, shape = random_network(seed, one_bit=one_bit)
    graph = simplify(trace(model, shape))
    x = images(5, *shape, seed=seed)
    try:
        check(graph, path, x.numpy(), batch=1 + seed % 3)
    except FsgError as error:
        assert "cannot export" in str(error)
        return
    assert_same(scores(path, to_tflite_direct(graph), x.numpy()), outputs(model, x))


def test_writes_a_residual_network_fast_and_without_heavy_packages():
    """In a process of its own: neither TensorFlow nor LCE nor PyTorch is there."""
    program = """
import sys
import numpy as np
from fsg.export import graph as g
from fsg.export.formats.tflite.direct import to_tflite_direct
rng = np.random.default_rng(0)
nodes = [g.Input(name="x", shape=(1, 64, 8, 8))]
for i in range(3):
    nodes += [
        g.Sign(name=f"s{i}", inputs=(nodes[-1].name,), shape=(1, 64, 8, 8)),
        g.BinaryConv(name=f"c{i}", inputs=(f"s{i}",), shape=(1, 64, 8, 8), stride=(1, 1), padding=(1, 1),
            dilation=(1, 1), groups=1, negative=rng.random((64, 64, 3, 3)) < 0.5, padding_value=1.0,
            scale=np.ones(64, np.float32), bias=np.zeros(64, np.float32)),
    ]
assert to_tflite_direct(g.BinaryGraph(tuple(nodes)))
assert not {"torch", "tensorflow", "larq_compute_engine"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
