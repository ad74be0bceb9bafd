"""Graphs of single nodes, and what .fsg and .tflite files of them compute."""

from dataclasses import replace

import numpy as np
from networks import assert_same, images

from fsg.export import graph as g
from fsg.export.formats.packed import from_packed, to_packed
from fsg.export.formats.tflite.direct import lower
from fsg.export.formats.tflite.flat import to_flatbuffer
from fsg.export.passes import sign_last
from fsg.export.reference import compute, run_graph
from fsg.runtime.model.packed.read import parse_packed
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts

rng = np.random.default_rng(0)


def floats(*shape):
    return (rng.integers(-4, 5, shape) / 4).astype(np.float32)


def convolution(kind, channels, outputs, kernel, stride=1, padding=0, dilation=1, groups=1, **more):
    pairs = {"stride": stride, "padding": padding, "dilation": dilation}
    fields = {key: value if isinstance(value, tuple) else (value, value) for key, value in pairs.items()}
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    if kind is g.TransposedConv:
        fields |= {"weight": floats(channels, outputs // groups, *kernel), "bias": floats(outputs)}
        fields |= {"output_padding": (0, 0)}
    elif kind is g.Conv:
        fields |= {"weight": floats(outputs, channels // groups, *kernel), "bias": floats(outputs)}
    else:
        fields |= {"negative": rng.random((outputs, channels // groups, *kernel)) < 0.5, "padding_value": 1.0}
        fields |= {"scale": floats(outputs), "bias": floats(outputs)}
    return node(kind, groups=groups, **(fields | more))


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


def many_operators():
    """A chain with most operators, of images [4, 6, 5]."""
    pads = node(g.Pad, padding=(1, 0, 2, 1), value=-1.0, channels=(0, 1))
    pool = {"kernel": (2, 3), "stride": (1, 2), "padding": (0, 1, 1, 1)}
    return of_nodes(
        (4, 6, 5),
        convolution(g.Conv, 4, 6, 3, 1, 1, groups=2),
        node(g.PReLU, slope=np.ones(6, np.float32)),
        node(g.Sign, name="signs"),
        convolution(g.BinaryConv, 6, 4, 3, 1, 1, 1, 2, padding_value=0.0),
        convolution(g.TransposedConv, 4, 4, 2, 2, 1),
        pads,
        node(g.MaxPool, **pool),
        node(g.AveragePool, **pool),
        node(g.Affine, scale=np.ones(5, np.float32), bias=np.zeros(5, np.float32), name="affine"),
        node(g.Resize, 1, 5, 7, 4, mode="bilinear", name="big"),
        node(g.Arithmetic, inputs=("big", "big"), operator="div"),
        node(g.Concat, inputs=("big", "n10"), axis=1),
        node(g.Take, axis=1, index=(1, 9, 3)),
        node(g.Transpose, permutation=(0, 2, 3, 1)),
        node(g.Reshape, 1, 7, 12),
        node(g.Sign),
        node(g.BinaryDense, negative=np.eye(9, 12) > 0, scale=np.ones(9, np.float32), bias=np.ones(9, np.float32)),
        node(g.Constant, name="matrix", value=np.ones((1, 9, 2), np.float32)),
        node(g.MatMul, inputs=("n16", "matrix")),
        node(g.Elementwise, operator="LeakyReLU", settings={"negative_slope": 0.1}),
        node(g.Softmax, axis=2, log=True),
        node(g.Reduce, 1, 7, operator="sum", axes=(2,)),
    )


def scores(path, content, x, **options):
    path.write_bytes(content)
    return open_model(path, **options)(x).reshape(len(x), -1)


def expected_of(graph, x):
    """What a graph means for images one by one, as rows of values."""
    expected = np.concatenate([run_graph(graph, image[None])[graph.nodes[-1].name] for image in x])
    return expected.reshape(len(x), -1)


def check_file(graph, x):
    """A .fsg file is read back as the graph that it was written of; returns the file's content."""
    content = to_packed(graph, {})
    again = from_packed(parse_packed("it", content))
    assert to_packed(again, {}) == content
    written = sign_last(graph)
    assert [(type(n), n.name, n.inputs, n.shape) for n in again.nodes] == [
        (type(n), n.name, n.inputs, n.shape) for n in written.nodes
    ]
    with np.errstate(all="ignore"):
        found, expected = run_graph(again, x), run_graph(written, x)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    return content


def check(graph, path, x=None, *, batch=1, exactly=False, count=5):
    """Compares what a graph's files compute with what the graph means, fused and not; returns its operators."""
    shape = graph.nodes[0].shape[1:]
    if x is None:
        x = images(count, *shape).numpy()
    expected = expected_of(graph, x)
    assert_same(scores(path.with_suffix(".fsg"), check_file(graph, x), x), expected)
    for fused in (False, True):
        content = to_flatbuffer(lower(graph, batch, fused=fused))
        found = scores(path, content, x)
        if exactly:
            np.testing.assert_array_equal(found, expected)
        else:
            assert_same(found, expected)
    return op_counts(content)


FLAT = node(g.Reduce, 1, 6, operator="mean", axes=(2, 3))
