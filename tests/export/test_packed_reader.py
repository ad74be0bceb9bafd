"""docs/packed.md is enough: what a reader written from it alone computes of files is what fsg computes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import read_packed
import torch
import zoo
from networks import RESNETS, Functions, Joined, assert_same, exact, images, random_network
from nodes import convolution, floats, many_operators, node, of_nodes

from fsg.export import graph as g
from fsg.export.elementwise import OPERATORS
from fsg.export.formats.packed import to_packed
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.runtime.model.meaning import ARITHMETIC
from fsg.runtime.model.packed import rules
from fsg.runtime.model.session import open_model

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny.fsg"


def agree(path, x):
    """The reader and fsg give the same for images; fsg gives scores [N, C, 1, 1] as [N, C]."""
    expected = open_model(path)(x)
    found = read_packed.run(path, x)
    assert found.dtype == np.float32 and found.shape in (expected.shape, (*expected.shape, 1, 1))
    assert_same(found.reshape(expected.shape), expected)
    return found


def agree_on(graph, path, count=3):
    path.write_bytes(to_packed(graph, {}))
    return agree(path, images(count, *graph.nodes[0].shape[1:]).numpy())


NETWORKS = {
    **RESNETS,
    "grouped": lambda: (exact(torch.nn.Sequential(*zoo.grouped_stem(), zoo.Residual(64))), (3, 24, 20)),
    "functions": lambda: (exact(Functions()), (3, 9, 8)),
    "joined": lambda: (exact(Joined()), (3, 9, 8)),
    **{f"random {seed}": lambda seed=seed: random_network(seed, one_bit=seed % 4 > 0) for seed in range(12)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    model, shape = NETWORKS[name]()
    agree_on(simplify(trace(model, shape)), tmp_path / "model.fsg")


def test_the_golden_file_as_a_program(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 5, 4, 6)).astype(np.float32)
    np.save(tmp_path / "images.npy", x)
    subprocess.run(
        [sys.executable, read_packed.__file__, GOLDEN, tmp_path / "images.npy", tmp_path / "scores.npy"], check=True
    )
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), agree(GOLDEN, x))


def convolutions():
    """Of 12 channels: kernels, strides, paddings, dilations, groups."""
    places = [(1, 1, 0, 1, 1), (3, 2, 1, 1, 4), ((3, 2), (2, 3), (2, 1), (1, 2), 3), (3, 1, 2, 2, 12)]
    for kernel, stride, padding, dilation, groups in places:
        how = (12, 24, kernel, stride, padding, dilation, groups)
        yield convolution(g.Conv, *how)
        if padding != 2:
            yield convolution(g.TransposedConv, *how)
        for value in (1.0, 0.0, -1.0, 0.5):
            yield node(g.Sign), convolution(g.BinaryConv, *how, padding_value=value)
            yield convolution(g.BinaryConv, *how, padding_value=value)
    yield convolution(g.TransposedConv, 12, 6, (2, 3), (3, 2), (1, 0), (2, 1), 2, output_padding=(2, 1))


def functions():
    for operator, row in OPERATORS.items():
        yield node(g.Elementwise, operator=operator, settings={name: float(n) for name, n in row.settings.items()})
    yield node(g.Elementwise, operator="GELU", settings={"approximate": 1.0})
    yield node(g.Elementwise, operator="Hardtanh", settings={"min_val": -np.inf, "max_val": 0.5})
    for operator in ARITHMETIC:
        yield (
            node(g.Constant, value=floats(12, 1, 7) + 3),
            node(g.Arithmetic, inputs=("image", "n0"), operator=operator),
        )


def others():
    rows = floats(3, 7)
    yield node(g.Negative, gain=1.5)
    yield node(g.Dense, weight=rows, bias=floats(3))
    for first in ((), (node(g.Sign),)):
        yield *first, node(g.BinaryDense, negative=rows < 0, scale=floats(3), bias=floats(3))
    yield node(g.Affine, scale=floats(12), bias=floats(1))
    yield node(g.PReLU, slope=floats(12))
    yield node(g.PReLU, slope=floats(1))
    for operator in ("mean", "sum", "max"):
        yield node(g.Reduce, 1, 12, 1, 1, operator=operator, axes=(2, 3))
        yield node(g.Reduce, 1, 9, 7, operator=operator, axes=(1,))
    for axis in (1, 3):
        yield node(g.Softmax, axis=axis, log=False)
        yield node(g.Constant, value=floats(1, 12, 9, 7)), node(g.Concat, inputs=("n0", "image", "n0"), axis=axis)
    for size in ((5, 20), (1, 1), (18, 14)):
        for corners in (False, True):
            yield node(g.Resize, 1, 12, *size, mode="bilinear", align_corners=corners)
        yield node(g.Resize, 1, 12, *size, mode="nearest")
    for kind in (g.MaxPool, g.AveragePool):
        yield node(kind, kernel=(3, 2), stride=(2, 3), padding=(2, 0, 1, 1))
    yield node(g.Pad, padding=(1, 0, 2, 3), value=-np.inf, channels=(2, 1))
    yield node(g.Transpose, permutation=(0, 1, 3, 2)), node(g.MatMul, inputs=("image", "n0"))
    yield node(g.Constant, value=floats(1, 5))
    integers = {
        "step": 0.25,
        "zero": -30,
        "source_step": 0.125,
        "source_zero": 5,
        "bias": np.arange(12, dtype=np.int32),
    }
    integers |= {"weight_step": np.linspace(0.01, 0.02, 12, dtype=np.float32)}
    weight = np.random.default_rng(0).integers(-127, 128, (12, 6, 3, 2), np.int8)
    window = {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1), "groups": 2}
    yield node(g.Quantize, step=0.125, zero=5), node(g.Int8Conv, weight=weight, **window, **integers)
    yield (
        node(g.Quantize, step=0.125, zero=5),
        node(g.Int8Dense, weight=weight[:, 0, :, 0].repeat(3, 1)[:, :7], **integers),
    )


def graphs():
    for nodes in (*convolutions(), *functions(), *others()):
        chain = nodes if isinstance(nodes, tuple) else (nodes,)
        yield of_nodes((12, 9, 7), *chain)
    every = many_operators()
    for end in range(2, len(every.nodes) + 1):
        yield g.BinaryGraph(every.nodes[:end])


@pytest.mark.filterwarnings("ignore:(divide|invalid|overflow):RuntimeWarning")
def test_every_operator(tmp_path):
    seen = set()
    for graph in graphs():
        agree_on(graph, tmp_path / "model.fsg")
        seen |= {type(node).__name__ for node in graph.nodes[1:]}
    assert seen == rules.RULES.keys()
