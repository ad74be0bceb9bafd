"""TensorFlow Lite without a converter: what is fused computes the same, and is fused where it can be."""

from dataclasses import replace

import numpy as np
import pytest
from nodes import FLAT, check, convolution, floats, node, of_nodes, rng, scores

from fsg.export import graph as g
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.reference import run_graph
from fsg.runtime.model.tflite import op_counts


def unit(operator, **settings):
    return node(g.Elementwise, operator=operator, settings=settings)


def affine(channels, **fields):
    return node(g.Affine, **({"scale": floats(channels), "bias": floats(channels)} | fields))


CLAMPS = [unit("ReLU"), unit("ReLU6"), unit("Hardtanh", min_val=-1.0, max_val=1.0)]


@pytest.mark.parametrize("clamp", CLAMPS, ids=lambda clamp: clamp.operator)
def test_clamps_are_part_of_the_operator_before(clamp, path):
    for nodes, codes in [
        ([convolution(g.Conv, 6, 5, 3)], {"CONV_2D": 1}),
        ([convolution(g.Conv, 6, 6, 3, groups=6)], {"DEPTHWISE_CONV_2D": 1}),
        ([FLAT, node(g.Dense, weight=floats(5, 6), bias=floats(5))], {"MEAN": 1, "FULLY_CONNECTED": 1}),
        ([affine(6)], {"MUL": 1, "ADD": 1}),
        ([node(g.Arithmetic, inputs=("image", "image"), operator="mul")], {"MUL": 1}),
        ([node(g.AveragePool, kernel=(3, 2), stride=(2, 1), padding=(0, 0, 0, 0))], {"AVERAGE_POOL_2D": 1}),
    ]:
        assert check(of_nodes((6, 9, 8), *nodes, clamp), path) == codes
        twice = [*nodes, replace(clamp, name="one"), node(g.Arithmetic, inputs=("one", ""), operator="add")]
        twice[-1] = replace(twice[-1], inputs=("one", f"n{len(nodes) - 1}"))
        ops = check(of_nodes((6, 9, 8), *twice), path)  # somebody else needs the value as it is
        assert sum(ops.values()) == sum(codes.values()) + 2


@pytest.mark.parametrize("clamp", CLAMPS, ids=lambda clamp: clamp.operator)
def test_binary_convolutions_clamp_their_sums(clamp, path):
    """Before they multiply and add, which only for a plain scale and no bias is the clamp behind it."""
    zeros, ones = np.zeros(8, np.float32), np.ones(8, np.float32)
    for scale, bias, is_exact in [
        (ones, zeros, True),
        (ones * 0.5, zeros, clamp.operator == "ReLU"),
        (-ones, zeros, False),
        (ones, ones, False),
    ]:
        conv = convolution(g.BinaryConv, 6, 8, 3, scale=scale, bias=bias)
        ops = check(of_nodes((6, 9, 8), node(g.Sign), conv, clamp, affine(8)), path, exactly=True)
        assert (ops == {"LceQuantize": 1, "LceBconv2d": 1}) == is_exact


def test_reshapes_are_joined_and_pads_left_to_convolutions(path):
    nodes = node(g.Reshape, 1, 432), node(g.Reshape, 1, 2, 216), node(g.Reshape, 1, 27, 16)
    assert check(of_nodes((6, 9, 8), *nodes), path) == {"RESHAPE": 1, "TRANSPOSE": 1}
    for padding, size, stride, is_same in [
        ((1, 1, 1, 1), 8, 1, True),
        ((0, 1, 0, 1), 8, 2, True),
        ((1, 1, 1, 1), 8, 2, False),
        ((1, 0, 1, 0), 8, 2, False),
    ]:
        for groups in (1, 6):
            conv = convolution(g.Conv, 6, 6, 3, stride, groups=groups)
            for value in (0.0, 1.0):
                ops = check(of_nodes((6, size, size), node(g.Pad, padding=padding, value=value), conv), path)
                assert (len(ops) == 1) == (is_same and value == 0)


def assert_bits(graph, path, *, x=None, **codes):
    ops = check(graph, path, x, exactly=True)
    assert {code: ops.get(code, 0) for code in codes} == codes


def chain(*between, first=None, **options):
    """A binary convolution, `between`, and a sign that another one reads, both of 40 channels."""
    first = first or convolution(g.BinaryConv, 40, 40, 3, 1, 1)
    last = convolution(g.BinaryConv, 40, 5, 3, 1, 1, **options)
    return of_nodes((40, 9, 9), node(g.Sign), first, *between, node(g.Sign), last)


UP = floats(40) ** 2
NO_POOL = {"stride": (1, 1), "padding": (0, 0, 0, 0)}


@pytest.mark.parametrize(
    ("between", "stays_bits"),
    [
        ([], True),
        ([affine(40)], True),  # negative and zero scales too
        ([affine(40), unit("Hardtanh", min_val=-1.0, max_val=1.0)], True),
        ([affine(40), unit("LeakyReLU", negative_slope=0.5), affine(40)], True),
        ([unit("ReLU"), affine(40)], True),
        ([node(g.PReLU, slope=floats(40) ** 2), affine(40)], True),
        ([unit("LeakyReLU", negative_slope=-0.5), affine(40, bias=-10 + 0 * floats(40))], False),  # not monotone
        ([affine(40), node(g.MaxPool, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))], True),
        (
            [node(g.MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)), affine(40, scale=floats(40) ** 2)],
            True,
        ),
        ([node(g.MaxPool, kernel=(3, 3), stride=(2, 2), padding=(0, 1, 0, 1))], False),  # no padding of TensorFlow's
        ([node(g.MaxPool, kernel=(2, 2), **NO_POOL), affine(40, scale=-1 - UP)], False),  # a minimum
        ([node(g.AveragePool, kernel=(2, 2), **NO_POOL)], False),
        ([node(g.Arithmetic, inputs=("n1", "n0"), operator="add")], False),
    ],
    ids=str,
)
def test_activations_between_binary_convolutions_stay_bits(between, stays_bits, path):
    pools = sum(isinstance(n, g.MaxPool) for n in between)
    if stays_bits:
        assert check(chain(*between), path, exactly=True) == {"LceBconv2d": 2, "LceQuantize": 1} | (
            {"LceBMaxPool2d": pools} if pools else {}
        )
    else:
        assert check(chain(*between), path, exactly=True)["LceQuantize"] == 2


def test_what_bits_cannot_do_stays_float(path):
    assert check(chain(padding_value=0.0), path, exactly=True)["LceQuantize"] == 1  # the reader may pad with zeros
    zero = convolution(g.BinaryConv, 40, 40, 3, 1, 1, padding_value=0.0)
    assert check(chain(first=zero), path, exactly=True)["LceQuantize"] == 2  # the writer may not
    assert check(chain(padding_value=-1.0), path, exactly=True)["LceQuantize"] == 2  # padded before the sign
    graph = chain()
    both = node(g.Concat, 1, 45, 9, 9, name="both", inputs=("n2", "n3"))
    assert check(g.BinaryGraph((*graph.nodes, both)), path, exactly=True)["LceQuantize"] == 2
    both = replace(both, inputs=("n1", "n3"))
    assert check(g.BinaryGraph((*graph.nodes, both)), path, exactly=True)["LceQuantize"] == 2
    reader = replace(graph.nodes[-1], name="again")
    both = replace(both, inputs=("n3", "again"), shape=(1, 10, 9, 9))
    assert check(g.BinaryGraph((*graph.nodes, reader, both)), path, exactly=True)["LceQuantize"] == 1


def test_thresholds_are_those_of_float32(path):
    """Every channel is as near to zero as rounding lets it, at some sum: scale * sum + bias, of any numbers."""
    outputs_, inputs = 96, 17
    scale = rng.standard_normal(outputs_).astype(np.float32)
    sums = rng.choice(np.arange(-inputs, inputs + 1, 2), outputs_).astype(np.float32)
    bias = -(scale * sums)  # one float away from it as well
    bias = np.where(rng.random(outputs_) < 0.5, bias, np.nextafter(bias, rng.choice([-np.inf, np.inf], outputs_)))
    scale[0] = bias[1] = 0
    first = convolution(g.BinaryConv, inputs, outputs_, 1, scale=scale, bias=bias.astype(np.float32))
    graph = of_nodes((inputs, 9, 9), node(g.Sign), first, node(g.Sign), convolution(g.BinaryConv, outputs_, 64, 1))
    x = np.random.default_rng(1).standard_normal((4, inputs, 9, 9)).astype(np.float32)
    content = to_tflite_direct(graph)
    assert op_counts(content) == {"LceBconv2d": 2, "LceQuantize": 1}
    expected = run_graph(graph, x)[graph.nodes[-1].name].reshape(len(x), -1)
    np.testing.assert_array_equal(scores(path, content, x), expected)


def test_pools_of_signs_work_on_bits(path):
    conv = convolution(g.BinaryConv, 6, 8, 3, 1, 1)
    for sides in [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 1)]:
        pool = node(g.MaxPool, kernel=(3, 3), stride=(2, 2), padding=sides)
        for nodes in ([node(g.Sign), pool, conv], [pool, node(g.Sign), conv]):
            assert_bits(of_nodes((6, 9, 9), *nodes), path, LceBMaxPool2d=1, MAX_POOL_2D=0, LceQuantize=1)
    mean = node(g.AveragePool, inputs=("n0",), kernel=(5, 5), stride=(1, 1), padding=(0, 0, 0, 0))
    graph = of_nodes((6, 9, 9), pool, node(g.Sign), conv, mean, node(g.Concat, inputs=("n2", "n2")))
    assert_bits(graph, path, LceBMaxPool2d=1)  # what nothing reads does not count


def test_dense_layers_read_images_as_they_are(path):
    dense = node(g.BinaryDense, negative=rng.random((40, 40 * 20)) < 0.5, scale=floats(40), bias=floats(40))
    last = node(g.BinaryDense, negative=rng.random((7, 40)) < 0.5, scale=floats(7), bias=floats(7))
    pool = node(g.MaxPool, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
    first = convolution(g.BinaryConv, 6, 40, 3, 1, 1)
    nodes = [node(g.Sign), first, affine(40, scale=floats(40) ** 2), pool, node(g.Reshape, 1, 800), node(g.Sign)]
    ops = check(of_nodes((6, 8, 10), *nodes, dense, affine(40), node(g.Sign), last), path, exactly=True)
    assert ops == {"LceBconv2d": 3, "LceQuantize": 1, "LceBMaxPool2d": 1, "RESHAPE": 1}


def test_equal_constants_are_one(path):
    weight, bias = floats(6, 6, 3, 3), floats(6)
    conv = convolution(g.Conv, 6, 6, 3, 1, 1, weight=weight, bias=bias)
    one = to_tflite_direct(of_nodes((6, 9, 8), conv))
    many = to_tflite_direct(of_nodes((6, 9, 8), *[replace(conv, weight=weight.copy()) for _ in range(4)]))
    assert len(many) - len(one) < weight.nbytes


def test_reductions_drop_the_axes_that_a_reshape_drops(path):
    keeping = node(g.Reduce, 1, 6, 1, 1, operator="mean", axes=(2, 3))
    assert check(of_nodes((6, 9, 8), keeping, node(g.Reshape, 1, 6)), path) == {"MEAN": 1}
    assert check(of_nodes((6, 9, 8), keeping, node(g.Reshape, 1, 1, 6)), path) == {"MEAN": 1, "RESHAPE": 1}
