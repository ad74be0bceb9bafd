"""Convolutions of 8-bit integers and pools of them: every set of kernels gives the reference's bits, and NumPy's."""

import lce
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st

from fsg.export import graph as g
from fsg.export.formats.tflite.direct import lower
from fsg.export.formats.tflite.flat import to_flatbuffer
from fsg.export.reference import run_graph
from fsg.runtime.library import possible_kernels

KERNELS = possible_kernels()  # the last is the reference
two = st.tuples(st.integers(1, 3), st.integers(1, 3))
sizes = st.one_of(st.integers(1, 40), st.sampled_from([15, 16, 17, 32, 33, 64]))


@st.composite
def networks(draw):
    """An image, rounded, convolved and perhaps pooled; with as many images."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel, stride, dilation = draw(st.tuples(st.integers(1, 7), st.integers(1, 7))), draw(two), draw(two)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [draw(st.integers(max(1, n - 2 * p), n + 9)) for n, p in zip(reach, padding, strict=True)]
    channels, outputs = draw(sizes), draw(sizes)
    source = {"step": 2.0**-5, "zero": draw(st.integers(-128, 127))}
    weight = rng.integers(-127, 128, (outputs, channels, *kernel), np.int8)
    spread = 40 * np.sqrt(weight[0].size) * 74  # of the sums
    result = {"step": 2.0**-4, "zero": draw(st.integers(-128, 127))}
    steps = (rng.uniform(0.5, 4, outputs) * 60 * result["step"] / source["step"] / spread).astype(np.float32)
    bias = rng.integers(-int(spread), int(spread) + 1, outputs).astype(np.int32)
    shape = (1, channels, *size)
    out = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, padding, reach, stride, strict=True)]
    nodes = [
        g.Input(name="image", shape=shape),
        g.Quantize(name="rounded", inputs=("image",), shape=shape, **source),
        g.Int8Conv(
            name="conv",
            inputs=("rounded",),
            shape=(1, outputs, *out),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=1,
            weight=weight,
            weight_step=steps,
            bias=bias,
            source_step=source["step"],
            source_zero=source["zero"],
            **result,
        ),
    ]
    if draw(st.booleans()):
        window = draw(two)
        sides = (window[0] // 2, 0, window[1] // 2, window[1] // 2)
        padded = [out[0] + sides[0], out[1] + 2 * sides[2]]
        if all(n >= w for n, w in zip(padded, window, strict=True)):
            pooled = (1, outputs, *((n - w) // 2 + 1 for n, w in zip(padded, window, strict=True)))
            nodes.append(
                g.MaxPool(name="pool", inputs=("conv",), shape=pooled, kernel=window, stride=(2, 2), padding=sides)
            )
    return g.BinaryGraph(tuple(nodes)), rng.normal(0, 3, (draw(st.integers(1, 2)), *shape[1:])).astype(np.float32)


@given(networks(), st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_all_kernels_give_the_bits_of_numpy(network, threads):
    graph, images = network
    model = to_flatbuffer(lower(graph, len(images)))
    expected = run_graph(graph, images)[graph.nodes[-1].name]
    given_images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    for kernels in KERNELS:
        (found,) = lce.run(model, given_images, kernels=kernels, threads=threads)
        np.testing.assert_array_equal(found.reshape(len(images), -1), _flat(expected), err_msg=kernels)


def _flat(images):
    return images.transpose(0, 2, 3, 1).reshape(len(images), -1)


def test_they_run_in_the_delegate():
    """With every set of kernels that is asked for by name."""
    rng = np.random.default_rng(0)
    graph = _one(rng.integers(-127, 128, (24, 3, 7, 7), np.int8))
    for kernels in KERNELS:
        assert "DELEGATE" in _operators(to_flatbuffer(lower(graph)), kernels)


def test_weights_of_minus_128_are_left_to_litert():
    weight = np.full((24, 3, 7, 7), -128, np.int8)
    assert "DELEGATE" not in _operators(to_flatbuffer(lower(_one(weight))), "scalar")


def _operators(model, kernels):
    interpreter = Interpreter(
        model_content=model,
        experimental_delegates=[lce.delegate(kernels=kernels)],
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return [operator["op_name"] for operator in interpreter._get_ops_details()]


def _one(weight):
    shape = (1, weight.shape[1], 20, 20)
    numbers = {"weight_step": np.full(len(weight), 0.01, np.float32), "bias": np.zeros(len(weight), np.int32)}
    grid = {"source_step": 0.5, "source_zero": 3, "step": 1.0, "zero": -7}
    window = {"stride": (2, 2), "padding": (3, 3), "dilation": (1, 1), "groups": 1}
    rounded = g.Quantize(name="rounded", inputs=("image",), shape=shape, step=0.5, zero=3)
    conv = {"name": "conv", "inputs": ("rounded",), "shape": (1, len(weight), 10, 10)}
    nodes = (
        g.Input(name="image", shape=shape),
        rounded,
        g.Int8Conv(**conv, **window, weight=weight, **numbers, **grid),
    )
    return g.BinaryGraph(nodes)
