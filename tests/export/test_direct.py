"""TensorFlow Lite without a converter: every node computes what it means, on the operators that it should."""

import contextlib
import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import oracle
import pytest
from networks import assert_same, exact, images, outputs, random_network
from nodes import FLAT, check, convolution, expected_of, floats, node, of_nodes, rng, scores
from torch import nn

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.elementwise import OPERATORS
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.formats.tflite.write import to_tflite
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.runtime.model.metadata import add_tflite_metadata
from fsg.runtime.model.session import open_model

from .patterns import PATTERNS, SHAPE


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


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name, batch, path):
    model = exact(nn.Sequential(copy.deepcopy(PATTERNS[name])))
    check(simplify(trace(model, SHAPE)), path, batch=batch)


def test_writes_a_residual_network_fast_and_without_heavy_packages():
    """In a process of its own: neither TensorFlow nor LCE nor PyTorch is there."""
    program = """
import sys
import numpy as np
from fsg.export import graph as g
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.formats.tflite.write import to_tflite
from fsg.runtime.model.metadata import add_tflite_metadata
from fsg.runtime.model.session import open_model
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


WINDOWS = [  # kernel, stride, padding, dilation of images of 9x8
    (3, 1, 1, 1), (3, 1, 0, 1), (3, 2, 1, 1), (3, 3, 1, 1), (5, 2, 2, 1), (1, 2, 0, 1), (2, 1, 1, 1), (4, 2, 1, 1),
    (3, 1, 2, 2), (3, 2, 2, 2), (3, 1, (1, 0), 1), (3, (1, 2), 1, 1), (3, (2, 1), (0, 2), (1, 2)), (7, 2, 3, 1),
    ((3, 1), 1, (1, 0), 1), ((1, 4), (2, 1), (0, 2), 1),
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("channels", [(6, 5, 1), (6, 4, 2), (6, 12, 6), (1, 3, 1)], ids=str)
def test_convolutions(window, channels, path):
    inputs, outputs_, groups = channels
    ops = check(of_nodes((inputs, 9, 8), convolution(g.Conv, inputs, outputs_, *window, groups)), path)
    assert ops.keys() <= {"CONV_2D" if groups < inputs or inputs == 1 else "DEPTHWISE_CONV_2D", "PAD"}


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("channels", [(33, 5, 1), (64, 64, 2), (6, 6, 6)], ids=str)
@pytest.mark.parametrize("value", [1.0, 0.0, -1.0])
def test_binary_convolutions(window, channels, value, path):
    inputs, outputs_, groups = channels
    graph = of_nodes(
        (inputs, 9, 8),
        node(g.Sign),
        convolution(g.BinaryConv, inputs, outputs_, *window, groups, padding_value=value),
    )
    try:
        ops = check(graph, path, exactly=groups < inputs, batch=2)
    except FsgError as error:
        assert value == 0 and "train it with padding_value=1" in str(error)
        return
    if groups < inputs:
        assert (ops["LceQuantize"], ops["LceBconv2d"]) == (groups, groups)
        parts = {"SLICE", "STRIDED_SLICE"} if value == 0 else {"SLICE"}  # of zero-padded signs every pixel is computed
        assert ops.keys() <= {"LceQuantize", "LceBconv2d", "CONCATENATION", "PAD", "PADV2", *parts}
        assert value == 0 or ops.get("SLICE", 0) == groups * (groups > 1)
    else:
        assert ops.keys() <= {"LceQuantize", "LceDequantize", "DEPTHWISE_CONV_2D", "PAD", "PADV2"}


def test_padding_that_is_same_is_left_to_the_convolution(path):
    for size, stride, padded in ((9, 1, False), (9, 2, False), (8, 2, True)):
        for value in (1.0, 0.0)[: 2 - padded]:
            conv = convolution(g.BinaryConv, 8, 8, 3, stride, 1, padding_value=value)
            ops = check(of_nodes((8, size, size), node(g.Sign), conv), path, exactly=True)
            assert ("PADV2" in ops) == padded
        ops = check(of_nodes((8, size, size), convolution(g.Conv, 8, 8, 3, stride, 1)), path)
        assert ("PAD" in ops) == padded
        pool = node(g.MaxPool, kernel=(3, 3), stride=(stride, stride), padding=(1, 1, 1, 1))
        ops = check(of_nodes((8, size, size), pool), path, exactly=True)
        assert ("PADV2" in ops) == padded


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("channels", [(6, 5, 1), (6, 4, 2), (4, 4, 4)], ids=str)
def test_transposed_convolutions(window, channels, path):
    inputs, outputs_, groups = channels
    kernel, stride, padding, dilation = window
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    for more in {(0, 0), (steps[0] - 1, 0), (0, steps[1] - 1)}:
        conv = convolution(
            g.TransposedConv, inputs, outputs_, kernel, stride, padding, dilation, groups, output_padding=more
        )
        ops = check(of_nodes((inputs, 5, 6), conv), path)
        assert ops.keys() <= {"TRANSPOSE_CONV", "SLICE"}
    if window == (4, 2, 1, 1):
        assert ops == {"TRANSPOSE_CONV": 1}


TOKENS = node(g.Reshape, 1, 6, 72), node(g.Transpose, permutation=(0, 2, 1))


NODES = [
    ([FLAT, node(g.Dense, weight=floats(5, 6), bias=floats(5))], {"MEAN", "FULLY_CONNECTED"}),
    (
        [node(g.Reshape, 1, 432), node(g.Dense, weight=floats(5, 432), bias=floats(5))],
        {"RESHAPE", "FULLY_CONNECTED"},
    ),
    ([node(g.Dense, weight=floats(5, 8), bias=floats(5))], {"TRANSPOSE", "FULLY_CONNECTED"}),
    ([*TOKENS, node(g.Dense, weight=floats(5, 6), bias=floats(5))], {"RESHAPE", "FULLY_CONNECTED"}),
    (
        [
            node(g.Transpose, permutation=(0, 2, 3, 1)),
            node(g.Dense, weight=floats(5, 6), bias=floats(5)),
            node(g.Transpose, permutation=(0, 3, 1, 2)),
        ],
        {"FULLY_CONNECTED"},
    ),
    ([node(g.Affine, scale=floats(6), bias=floats(6))], {"MUL", "ADD"}),
    ([node(g.Affine, scale=np.ones(6, np.float32), bias=floats(6))], {"ADD"}),
    ([node(g.Affine, scale=floats(6), bias=np.zeros(6, np.float32))], {"MUL"}),
    ([FLAT, node(g.Affine, scale=floats(6), bias=floats(6))], {"MEAN", "MUL", "ADD"}),
    ([*TOKENS, node(g.Affine, scale=floats(72), bias=floats(72))], {"RESHAPE", "MUL", "ADD"}),
    ([TOKENS[0], node(g.Affine, scale=floats(6), bias=floats(6))], {"RESHAPE", "MUL", "ADD", "TRANSPOSE"}),
    ([node(g.Negative, gain=8.0)], {"MUL"}),
    ([node(g.PReLU, slope=floats(6))], {"PRELU"}),
    ([node(g.PReLU, slope=floats(1))], {"PRELU"}),
    ([FLAT, node(g.PReLU, slope=floats(6))], {"MEAN", "PRELU"}),
    ([*TOKENS, node(g.PReLU, slope=floats(72))], {"RESHAPE", "PRELU"}),
    ([node(g.Sign)], {"LceQuantize", "LceDequantize"}),
    ([FLAT, node(g.Sign)], {"MEAN", "LceQuantize", "LceDequantize"}),
    ([*TOKENS, node(g.Sign)], {"RESHAPE", "LceQuantize", "LceDequantize"}),
    ([node(g.Sign), node(g.Arithmetic, inputs=("n0", "image"), operator="add")], None),
    ([node(g.Sign), node(g.Concat, inputs=("n0", "image", "n0"))], None),
    ([node(g.Concat, inputs=("image", "image"))], {"CONCATENATION"}),
    ([node(g.Concat, inputs=("image", "image"), axis=3)], {"CONCATENATION"}),
    ([node(g.Take, axis=1, index=(1, 2, 3))], {"SLICE"}),
    ([node(g.Take, axis=2, index=(0, 2, 4, 6))], {"STRIDED_SLICE"}),
    ([node(g.Take, axis=-1, index=(3, 0, 0, 2))], {"GATHER"}),
    ([node(g.Take, axis=1, index=(4,))], {"SLICE"}),
    ([node(g.Take, axis=1, index=(0, 2, 4, 1, 3, 5))], {"RESHAPE", "TRANSPOSE"}),
    ([node(g.Take, axis=1, index=(0, 3, 1, 4, 2, 5))], {"RESHAPE", "TRANSPOSE"}),
    ([node(g.Take, axis=1, index=(5, 4, 3, 2, 1, 0))], {"GATHER"}),
    ([node(g.Pad, padding=(1, 0, 2, 3), value=0.0)], {"PAD"}),
    ([node(g.Pad, padding=(1, 0, 2, 3), value=-1.5, channels=(2, 1))], {"PADV2"}),
    ([node(g.MaxPool, kernel=(2, 3), stride=(2, 1), padding=(0, 0, 0, 0))], {"MAX_POOL_2D"}),
    ([node(g.MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))], {"PADV2", "MAX_POOL_2D"}),
    ([node(g.MaxPool, kernel=(3, 3), stride=(2, 2), padding=(0, 1, 0, 1))], None),
    ([node(g.AveragePool, kernel=(3, 2), stride=(2, 1), padding=(0, 0, 0, 0))], {"AVERAGE_POOL_2D"}),
    ([node(g.AveragePool, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1))], {"PAD", "AVERAGE_POOL_2D"}),
    ([node(g.Reduce, 1, 6, 1, 1, operator="mean", axes=(2, 3))], {"MEAN"}),
    ([node(g.Reduce, 1, 9, operator="sum", axes=(1, 3))], {"SUM"}),
    ([node(g.Reduce, 1, 6, 9, operator="max", axes=(3,))], None),
    ([node(g.Reduce, 1, 1, 9, 8, operator="max", axes=(1,))], {"REDUCE_MAX"}),
    ([FLAT, node(g.Softmax, axis=1, log=False)], {"MEAN", "SOFTMAX"}),
    ([FLAT, node(g.Softmax, axis=-1, log=True)], {"MEAN", "LOG_SOFTMAX"}),
    ([node(g.Softmax, axis=1, log=False)], {"SOFTMAX"}),
    ([node(g.Softmax, axis=1, log=True)], {"LOG_SOFTMAX"}),
    ([node(g.Softmax, axis=3, log=False)], {"SOFTMAX", "TRANSPOSE"}),
    ([node(g.Resize, 1, 6, 18, 16, mode="nearest")], {"RESIZE_NEAREST_NEIGHBOR"}),
    ([node(g.Resize, 1, 6, 5, 11, mode="nearest")], None),
    ([node(g.Resize, 1, 6, 18, 16, mode="bilinear")], {"RESIZE_BILINEAR"}),
    ([node(g.Resize, 1, 6, 5, 13, mode="bilinear")], {"RESIZE_BILINEAR"}),
    ([node(g.Resize, 1, 6, 17, 13, mode="bilinear", align_corners=True)], {"RESIZE_BILINEAR"}),
    ([node(g.Transpose, permutation=(0, 3, 1, 2))], None),
    ([node(g.Reshape, 1, 12, 36), node(g.Transpose, permutation=(0, 2, 1))], None),
    ([node(g.Reshape, 1, 3, 2, 9, 8), node(g.Transpose, permutation=(0, 2, 1, 3, 4))], None),
    (
        [
            node(g.Reshape, 1, 3, 2, 9, 8),
            node(g.Transpose, permutation=(0, 2, 1, 3, 4)),
            node(g.Reshape, 1, 6, 9, 8),
        ],
        {"RESHAPE", "TRANSPOSE"},
    ),
    ([node(g.Reshape, 1, 8, 9, 6)], None),
    ([node(g.Reshape, 1, 24, 3, 6), node(g.Reshape, 1, 432)], None),
    ([node(g.Reshape, 1, 432), node(g.Reshape, 1, 432, 1, 1)], None),
    ([node(g.Reshape, 1, 1, 432)], None),
    ([node(g.Sign), convolution(g.BinaryConv, 6, 40, 3), node(g.Reshape, 1, 40 * 42)], None),
]
"""Nodes on an image [6, 9, 8], and the operators that they may become."""


@pytest.mark.parametrize(("nodes", "codes"), NODES)
def test_nodes(nodes, codes, path):
    for batch in (1, 3):
        ops = check(of_nodes((6, 9, 8), *nodes), path, batch=batch)
        assert codes is None or ops.keys() <= codes


ROWS = {
    "Hardtanh": [
        dict(zip(("min_val", "max_val"), bounds, strict=True))
        for bounds in [
            (-1, 1),
            (0, 6),
            (-0.5, 0.75),
            (0, 1),
            (-np.inf, 1),
            (-1, np.inf),
            (0, np.inf),
            (-np.inf, np.inf),
        ]
    ],
    "LeakyReLU": [{"negative_slope": slope} for slope in (0.1, 2.0, -0.5)],
    "ELU": [{"alpha": 1.0}, {"alpha": 0.3}],
}


@pytest.mark.parametrize("row", OPERATORS)
def test_elementwise(row, path):
    for settings in ROWS.get(row, [dict.fromkeys(OPERATORS[row].settings, 0.0)]):
        for first in ([], [FLAT]):
            check(of_nodes((6, 9, 8), *first, node(g.Elementwise, operator=row, settings=settings)), path)


@pytest.mark.parametrize("operator", ["add", "sub", "mul", "div", "max", "min"])
def test_arithmetic(operator, path):
    def graph(*nodes, left="image", right="other"):
        return of_nodes((6, 9, 8), *nodes, node(g.Arithmetic, inputs=(left, right), operator=operator))

    for shape in [(), (1,), (8,), (9, 1), (6, 1, 1), (1, 6, 1, 1), (1, 6, 9, 8), (1, 1, 9, 8), (6, 9, 8)]:
        value = np.where((constant := floats(*shape)) == 0, np.float32(2), constant)
        other = node(g.Constant, name="other", value=np.float32(value))
        check(graph(other), path)
        if operator != "div":
            check(graph(other, left="other", right="image"), path, batch=2)
    shift = node(g.Affine, scale=np.zeros(6, np.float32), bias=np.ones(6, np.float32), inputs=("image",))
    pooled = node(g.Reduce, 1, 6, 1, 1, name="other", operator="max", axes=(2, 3))
    line = node(g.Reduce, 1, 1, 9, 8, name="other", operator="mean", axes=(1,), inputs=("n0",))
    check(graph(shift, pooled), path, batch=2)
    check(graph(shift, line), path, batch=2)
    turned = node(g.Transpose, name="other", permutation=(0, 1, 3, 2), inputs=("n0",))
    square = [node(g.Take, name="square", inputs=("image",), axis=2, index=tuple(range(8)))]
    square += [replace(shift, inputs=("square",), name="n0"), turned]
    check(graph(*square, left="square"), path)


def test_joined_constants(path):
    constant = node(g.Constant, name="class", value=floats(1, 1, 6))
    check(
        of_nodes((6, 9, 8), *TOKENS, constant, node(g.Concat, inputs=("class", "n1"), axis=1)), path, batch=2, count=4
    )


def test_nearest_pixels_are_exact_whatever_the_ratio(path):
    """TFLite multiplies by a rounded ratio, which is a pixel off at some sizes."""
    for old in range(1, 9):
        for new in (7, 49, 61, 98, 103):
            graph = of_nodes((2, old, 3), node(g.Resize, 1, 2, new, 3, mode="nearest"))
            check(graph, path, exactly=True, count=2)


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("inputs", [31, 64])
def test_binary_dense_layers(rank, inputs, path):
    shape = {2: (1, inputs), 3: (1, 12, inputs), 4: (1, 3, 4, inputs)}[rank]
    image = (inputs, 1, 1) if rank == 2 else (inputs, 3, 4)
    before = [node(g.Reshape, *shape)]
    if rank == 3:
        before = [node(g.Reshape, 1, inputs, 12), node(g.Transpose, permutation=(0, 2, 1))]
    dense = node(g.BinaryDense, negative=rng.random((5, inputs)) < 0.5, scale=floats(5), bias=floats(5))
    ops = check(of_nodes(image, *before, node(g.Sign), dense), path, exactly=True, batch=2)
    assert ops["LceBconv2d"] == 1
    ops = check(of_nodes(image, *before, dense), path)  # no sign before it
    assert ops["FULLY_CONNECTED"] == 1


def _is_beyond(graph, node):
    """Zeros around an image that is smaller than the dilated kernel: there LCE's own interpreter is wrong."""
    if not isinstance(node, g.BinaryConv) or node.padding_value or not any(node.padding):
        return False
    reach = [d * (k - 1) for d, k in zip(node.dilation, node.negative.shape[2:], strict=True)]
    return any(n <= r for n, r in zip(graph[node.inputs[0]].shape[2:], reach, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(oracle.python() is None, reason="LCE's interpreter is not installed: run `make oracle`")
def test_lces_own_interpreter_agrees(tmp_path):
    graphs = {f"nodes-{i}": of_nodes((6, 9, 8), *nodes) for i, (nodes, _) in enumerate(NODES)}
    for i, window in enumerate(WINDOWS):
        graphs[f"float-{i}"] = of_nodes((6, 9, 8), convolution(g.Conv, 6, 4, *window, groups=2))
        graphs[f"transposed-{i}"] = of_nodes((6, 9, 8), convolution(g.TransposedConv, 6, 4, *window))
        for value in (1.0, 0.0, -1.0):
            conv = convolution(g.BinaryConv, 33, 5, *window, padding_value=value)
            graphs[f"binary-{i}-{value:g}"] = of_nodes((33, 9, 8), node(g.Sign), conv)
    for row in OPERATORS:
        for settings in ROWS.get(row, [dict.fromkeys(OPERATORS[row].settings, 0.0)]):
            unit = node(g.Elementwise, operator=row, settings=settings)
            graphs[f"{row}-{list(settings.values())}"] = of_nodes((6, 9, 8), unit)
    for seed in range(40):
        graph = simplify(trace(*random_network(seed)))
        if not any(map(lambda node: _is_beyond(graph, node), graph.nodes)):
            graphs[f"random-{seed}"] = graph
    for name, pattern in PATTERNS.items():
        graphs[f"pattern-{name.replace('/', '-')}"] = simplify(
            trace(exact(nn.Sequential(copy.deepcopy(pattern))), SHAPE)
        )
    cases, wanted = {}, {}
    for name, graph in graphs.items():
        x = images(3, *graph.nodes[0].shape[1:]).numpy()
        with contextlib.suppress(FsgError):
            cases[name] = to_tflite_direct(graph), x.transpose(0, 2, 3, 1)[:, None]
            wanted[name] = expected_of(graph, x)
    assert len(cases) > len(graphs) - 30
    found = oracle.run_lce(tmp_path, cases)
    for name, outputs_ in found.items():
        assert not isinstance(outputs_, str), f"{name}: {outputs_}"
        found_ = outputs_[0][:, 0]  # images one by one
        found_ = (found_.transpose(0, 3, 1, 2) if found_.ndim == 4 else found_).reshape(3, -1)
        # Its exponential never is infinite.
        assert_same(*(np.clip(values, -1e37, 1e37) for values in (found_, wanted[name])), name)


def test_the_writer_is_chosen(path):
    graph = of_nodes((6, 9, 8), node(g.Sign), convolution(g.BinaryConv, 6, 8, 3, 1, 1))
    x = images(4, 6, 9, 8).numpy()
    content, writer = to_tflite(graph, writer="direct", batch=4)
    content = add_tflite_metadata(content, {"task": "test"})
    assert writer == to_tflite(graph, batch=4)[1] == "direct"
    np.testing.assert_array_equal(scores(path, content, x), expected_of(graph, x))
    session = open_model(path)
    assert (session.batch, session.metadata) == (4, {"task": "test"})
    with pytest.raises(FsgError, match="for one image, not 4: --writer direct"):
        to_tflite(graph, writer="lce", batch=4)


def test_an_image_alone_and_a_constant_are_outputs_too(path):
    check(of_nodes((6, 9, 8)), path, exactly=True)
    nothing = node(g.Affine, scale=np.zeros(6, np.float32), bias=floats(6))
    check(of_nodes((6, 9, 8), nothing), path, exactly=True, batch=2)
