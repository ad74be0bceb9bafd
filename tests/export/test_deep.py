"""Every value within a network is compared, and the first that differs is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import random_network

from fsg import FsgError
from fsg.export import deep, passes
from fsg.export import graph as g
from fsg.export.formats.onnx import to_onnx
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.recognise import simplify
from fsg.export.trace import trace, values_of
from fsg.training.networks.resnet import build_model


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = build_model("resnet20", classes=5).train()
    for _ in range(3):
        model(torch.randn(16, 3, 16, 16))
    return model.eval(), torch.randn(6, 3, 16, 16).numpy()


def changed(graph, kind):
    """The graph with one wrong weight in the fourth node of that type; and that node."""
    node = [node for node in graph.nodes if isinstance(node, kind)][3]
    if kind is g.BinaryConv:
        negative = node.negative.copy()
        negative[2] = ~negative[2]
        wrong = replace(node, negative=negative)
    else:
        scale = node.scale.copy()
        scale[2] *= 1.01
        wrong = replace(node, scale=scale)
    return g.BinaryGraph(tuple(wrong if other is node else other for other in graph.nodes)), node


def test_what_is_read_is_compared_with_pytorch_layer_by_layer(network):
    model, images = network
    graph = trace(model, (3, 16, 16))
    assert deep.check_values(graph, values_of(model, images), images, "PyTorch") > 0.95 * len(graph.nodes)
    for kind in (g.BinaryConv, g.Affine):
        wrong, node = changed(graph, kind)
        with pytest.raises(
            FsgError, match=rf"PyTorch differs first at {node.name} \({kind.__name__}\), image \d, chan"
        ):
            deep.check_values(wrong, values_of(model, images), images, "PyTorch")


@pytest.mark.parametrize("batch", [1, 4, None])
def test_every_value_of_an_onnx_file(network, batch):
    model, images = network
    graph = simplify(trace(model, (3, 16, 16)))
    assert deep.check_file("onnx", "onnx", graph, to_onnx(graph, {}, batch=batch), images) == len(graph.nodes) - 1
    wrong, node = changed(graph, g.BinaryConv)
    with pytest.raises(FsgError, match=rf"model.onnx differs first at {node.name} .*channel 2"):
        deep.check_file("onnx", "onnx", graph, to_onnx(wrong, {}, batch=batch), images)


@pytest.mark.parametrize("batch", [1, 4])
def test_every_value_of_a_tflite_file(network, batch):
    model, images = network
    graph = simplify(trace(model, (3, 16, 16)))
    compared = deep.check_file("tflite", "direct", graph, to_tflite_direct(graph, batch), images)
    assert compared >= len([node for node in graph.nodes if isinstance(node, (g.BinaryConv, g.Arithmetic))])
    wrong, node = changed(graph, g.BinaryConv)
    with pytest.raises(FsgError, match=r"model.tflite differs first at .*, image \d, channel 2"):
        deep.check_file("tflite", "direct", graph, to_tflite_direct(wrong, batch), images)
    assert node.name in str(wrong[node.name].name)


@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed):
    model, shape = random_network(seed, one_bit=seed % 2 == 0)
    images = np.random.default_rng(seed).standard_normal((4, *shape)).astype(np.float32)
    read = trace(model, shape)
    assert deep.check_values(read, values_of(model, images), images, "PyTorch") > 0
    graph = simplify(read)
    assert deep.check_file("onnx", "onnx", graph, to_onnx(graph, {}), images) > 0
    if all(node.padding_value or passes.keeps_size(node) for node in graph.nodes if isinstance(node, g.BinaryConv)):
        assert deep.check_file("tflite", "direct", graph, to_tflite_direct(graph), images) > 0
    assert deep.check_file("tflite", "lce", graph, b"", images) == 0
