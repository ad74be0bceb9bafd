"""Every operator in a stock interpreter against plain NumPy, on random shapes."""

import lce
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from fsg import FsgError
from fsg.runtime.library import active_kernels, possible_kernels

KERNELS = possible_kernels()  # the last is the reference

property_test = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)
channels = st.one_of(st.integers(1, 70), st.sampled_from([15, 16, 17, 31, 32, 33, 64, 128]))
two = st.tuples(st.integers(1, 3), st.integers(1, 3))


def signs_of(rng, shape):
    return rng.choice(np.array([-1, 1], np.int32), shape)


@st.composite
def convolutions(draw):
    """A random generator, a Conv and an input shape that it fits."""
    rng = np.random.default_rng(draw(seeds))
    kernel, dilation = draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(two)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = draw(st.sampled_from([0, 1]))
    low = reach if padding == 1 else (1, 1)
    size = [draw(st.integers(n, n + 8)) for n in low]
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    depth = draw(channels) if groups == 1 else draw(st.sampled_from([32, 64, 96]))
    weights = signs_of(rng, (groups * draw(channels), *kernel, depth))
    pad_values, activation = draw(st.sampled_from([0, 1])), draw(st.integers(0, 3))
    conv = lce.Conv(weights, draw(two), dilation, padding, pad_values, activation, groups)
    return rng, conv, (draw(st.integers(1, 3)), *size, groups * depth)


def affine(rng, count):
    return rng.standard_normal((2, count)).astype(np.float32)


def run_conv(signs, conv, *constants, kernels="auto", **output):
    graph = lce.Graph()
    source = graph.tensor(lce.pack(signs).shape, np.int32)
    model = graph.build([source], [graph.conv(source, conv, *constants, **output)])
    return lce.run(model, lce.pack(signs), kernels=kernels)[0]


@property_test
@given(convolutions(), st.sampled_from(KERNELS))
def test_float_convolution(case, kernels):
    rng, conv, shape = case
    signs = signs_of(rng, shape)
    multiplier, bias = affine(rng, len(conv.weights))
    got = run_conv(signs, conv, multiplier, bias, kernels=kernels)
    np.testing.assert_allclose(got, conv.outputs(signs, multiplier, bias), rtol=1e-6)


@property_test
@given(convolutions(), st.sampled_from(KERNELS))
def test_packed_convolution(case, kernels):
    rng, conv, shape = case
    signs = signs_of(rng, shape)
    popcounts = conv.popcounts(signs)
    thresholds = rng.integers(popcounts.min() - 1, popcounts.max() + 2, len(conv.weights)).astype(np.int32)
    thresholds[rng.random(len(thresholds)) < 0.1] = rng.choice([-(2**31), 2**31 - 1])
    got = run_conv(signs, conv, None, None, thresholds, dtype=np.int32, kernels=kernels)
    np.testing.assert_array_equal(got, lce.pack(np.where(popcounts > thresholds, -1, 1)))


@property_test
@given(convolutions(), st.sampled_from(KERNELS), st.integers(-128, 127))
def test_int8_convolution(case, kernels, zero_point):
    rng, conv, shape = case
    signs = signs_of(rng, shape)
    multiplier, bias = affine(rng, len(conv.weights))
    scale = np.float32(rng.uniform(0.05, 1))
    got = run_conv(signs, conv, multiplier, bias, dtype=np.int8, scale=scale, zero_point=zero_point, kernels=kernels)
    exact = conv.outputs(signs, multiplier, bias, np.float64(scale), zero_point)
    np.testing.assert_array_equal(got, np.clip(lce.round_half_away(exact), -128, 127))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("depth", [31, 32, 960, 992, 993, 1024, 4100])
def test_sums_of_extreme_length(depth, kernels):
    """Every bit differs, the most that the kernels' narrow counters have to bear."""
    conv = lce.Conv(np.full((20, 1, 1, depth), -1))
    signs = np.ones((1, 2, 5, depth), np.int32)
    got = run_conv(signs, conv, np.ones(20, np.float32), np.zeros(20, np.float32), kernels=kernels)
    np.testing.assert_array_equal(got, np.full((1, 2, 5, 20), -depth))


@pytest.mark.parametrize("kernels", KERNELS)
def test_int8_ties_round_away_from_zero_and_saturate(kernels):
    conv = lce.Conv(np.ones((5, 1, 1, 1)))
    multiplier = np.float32([0.5, 1.5, 126.5, 1e9, np.nextafter(np.float32(0.5), np.float32(0))])
    got = run_conv(
        np.array([1, -1]).reshape(1, 1, 2, 1),
        conv,
        multiplier,
        np.zeros(5, np.float32),
        dtype=np.int8,
        scale=1.0,
        kernels=kernels,
    )
    assert got.reshape(2, 5).tolist() == [[1, 2, 127, 127, 0], [-1, -2, -127, -128, 0]]


@property_test
@given(convolutions(), st.sampled_from(KERNELS[:-1]))
def test_kernels_give_the_bits_of_the_reference(case, kernels):
    rng, conv, shape = case
    signs = signs_of(rng, shape)
    multiplier, bias = affine(rng, len(conv.weights))
    got, expected = (run_conv(signs, conv, multiplier, bias, kernels=k) for k in (kernels, "scalar"))
    np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32))


@property_test
@given(seeds, channels, two, st.data())
def test_max_pool(seed, depth, stride, data):
    padding = data.draw(st.sampled_from([0, 1]))
    window = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    size = [data.draw(st.integers(n if padding else 1, 9)) for n in window]
    signs = signs_of(np.random.default_rng(seed), (2, *size, depth))
    graph = lce.Graph()
    source = graph.tensor(lce.pack(signs).shape, np.int32)
    model = graph.build([source], [graph.max_pool(source, window, stride, padding)])
    got = lce.run(model, lce.pack(signs), kernels=data.draw(st.sampled_from(KERNELS)))[0]
    np.testing.assert_array_equal(got, lce.pack(lce.max_pool(signs, window, stride, padding)))


@property_test
@given(seeds, st.lists(st.integers(1, 5), max_size=4), channels, st.sampled_from(KERNELS), st.integers(-128, 127))
def test_quantize(seed, outer, depth, kernels, zero_point):
    rng = np.random.default_rng(seed)
    shape = [*outer, depth]
    special = rng.choice(np.float32([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45]), shape)
    floats = np.where(rng.random(shape) < 0.3, special, rng.standard_normal(shape)).astype(np.float32)
    small = rng.integers(-128, 128, shape).astype(np.int8)
    truths = rng.random(shape) < 0.5
    for values, options, expected in [
        (floats, {}, lce.pack(floats)),
        (small, {"scale": 0.5, "zero_point": zero_point}, lce.pack(small, zero_point)),
        (truths, {}, lce.pack(np.where(truths, 1, -1))),
    ]:
        graph = lce.Graph()
        source = graph.tensor(shape, values.dtype, **options)
        model = graph.build([source], [graph.quantize(source)])
        np.testing.assert_array_equal(lce.run(model, values, kernels=kernels)[0], expected)


@property_test
@given(seeds, st.lists(st.integers(1, 5), max_size=4), channels, st.floats(0.004, 4), st.integers(-128, 127))
def test_dequantize(seed, outer, depth, scale, zero_point):
    signs = signs_of(np.random.default_rng(seed), [*outer, depth])
    step = lce.round_half_away(np.float64(np.float32(1) / np.float32(scale)))
    quantized = np.clip(zero_point + step * signs, -128, 127)
    for dtype, options, expected in [
        (np.float32, {}, signs),
        (np.bool_, {}, signs > 0),
        (np.int8, {"scale": scale, "zero_point": zero_point}, quantized),
    ]:
        graph = lce.Graph()
        source = graph.tensor(lce.pack(signs).shape, np.int32)
        model = graph.build([source], [graph.dequantize(source, depth, dtype, **options)])
        np.testing.assert_array_equal(lce.run(model, lce.pack(signs))[0], expected)


class Chain:
    """float -> bits -> conv -> bits -> pool -> conv -> float, with a builtin between on request."""

    def __init__(self, split=False):
        rng = np.random.default_rng(5)
        self.first = lce.Conv(signs_of(rng, (40, 3, 3, 20)), padding=0, pad_values=1)
        self.second = lce.Conv(signs_of(rng, (24, 3, 3, 40)), stride=(2, 2), padding=0)
        self.thresholds = rng.integers(80, 100, 40).astype(np.int32)
        self.multiplier, self.bias = affine(rng, 24)
        graph = lce.Graph()
        source = graph.tensor([1, 8, 10, 20])
        bits = graph.conv(graph.quantize(source), self.first, None, None, self.thresholds, dtype=np.int32)
        if split:
            signs = graph.dequantize(bits, 40)
            negated = graph.tensor([1, 8, 10, 40])
            graph.operator(schema.BuiltinOperator.NEG, [signs], [negated])
            bits = graph.quantize(negated)
        self.flip = -1 if split else 1
        pooled = graph.max_pool(bits, (2, 2), (2, 2), 0)
        self.model = graph.build([source], [graph.conv(pooled, self.second, self.multiplier, self.bias), pooled])

    def expected(self, images):
        popcounts = self.first.popcounts(np.where(images < 0, -1, 1))
        signs = self.flip * np.where(popcounts > self.thresholds, -1, 1)
        pooled = lce.max_pool(signs, (2, 2), (2, 2), 0)
        return self.second.outputs(pooled, self.multiplier, self.bias), lce.pack(pooled)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("kernels", KERNELS)
def test_chains_of_packed_tensors(split, kernels):
    chain = Chain(split)
    images = np.random.default_rng(0).standard_normal((1, 8, 10, 20)).astype(np.float32)
    for got, expected in zip(lce.run(chain.model, images, kernels=kernels), chain.expected(images), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("split", [False, True])
def test_batch_resize_back_and_forth(split):
    chain = Chain(split)
    interpreter = lce.interpret(chain.model)
    source = interpreter.get_input_details()[0]["index"]
    for batch in (1, 5, 2, 7, 1):
        images = np.random.default_rng(batch).standard_normal((batch, 8, 10, 20)).astype(np.float32)
        interpreter.resize_tensor_input(source, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        got = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
        for value, expected in zip(got, chain.expected(images), strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_many_short_lived_tensors_share_memory_safely():
    """Two branches of packed tensors alive at once, in one partition."""
    rng = np.random.default_rng(3)
    convs = [lce.Conv(signs_of(rng, (33, 3, 3, 33)), padding=0, pad_values=1) for _ in range(6)]
    thresholds = np.full(33, 148, np.int32)
    multiplier, bias = affine(rng, 33)
    graph = lce.Graph()
    source = graph.tensor([1, 6, 6, 33])
    bits = first = graph.quantize(source)
    for conv in convs:
        bits = graph.conv(bits, conv, None, None, thresholds, dtype=np.int32)
    outputs = [graph.conv(b, convs[0], multiplier, bias) for b in (first, bits)]
    model = graph.build([source], outputs)
    images = rng.standard_normal((1, 6, 6, 33)).astype(np.float32)
    signs = start = np.where(images < 0, -1, 1)
    for conv in convs:
        signs = np.where(conv.popcounts(signs) > thresholds, -1, 1)
    for got, expected in zip(lce.run(model, images), (start, signs), strict=True):
        np.testing.assert_allclose(got, convs[0].outputs(expected, multiplier, bias), rtol=1e-6)


def test_the_taps_of_a_huge_dilation_lie_outside():
    rng = np.random.default_rng(7)
    conv = lce.Conv(signs_of(rng, (20, 3, 3, 33)), dilation=(2**20, 2**20), padding=0)
    signs = signs_of(rng, (1, 6, 6, 33))
    centre = lce.Conv(conv.weights[:, 1:2, 1:2])
    one, zero = np.ones(20, np.float32), np.zeros(20, np.float32)
    for kernels in KERNELS:
        np.testing.assert_array_equal(run_conv(signs, conv, one, zero, kernels=kernels), centre.dots(signs))


def test_unknown_kernels_and_options_are_refused(monkeypatch):
    for options, message in [
        ({"kernels": "mmx"}, f'no kernels "mmx"; it has auto, {", ".join(KERNELS)}'),
        ({"num_threads": "0"}, "num_threads must be a number from 1 to 256"),
        ({"num_threads": "two"}, "num_threads must be a number from 1 to 256"),
        ({"fuse": "yes"}, "fuse must be 0 or 1"),
        ({"speed": "11"}, "the delegate's options are kernels, num_threads and fuse"),
    ]:
        with pytest.raises(ValueError, match=message):
            lce.load_delegate(lce.delegate_path(), options)
    monkeypatch.setenv("FSG_KERNELS", "mmx")
    with pytest.raises(ValueError, match='FSG_KERNELS: this processor has no kernels "mmx"; it has auto, '):
        lce.load_delegate(lce.delegate_path(), {})


def test_kernels_from_the_environment(monkeypatch):
    for name in KERNELS:
        monkeypatch.setenv("FSG_KERNELS", name)
        assert active_kernels() == name
        lce.load_delegate(lce.delegate_path(), {"kernels": "auto"})
    for unset in ("", "auto"):
        monkeypatch.setenv("FSG_KERNELS", unset)
        assert active_kernels() == KERNELS[0]
    monkeypatch.setenv("FSG_KERNELS", "sse9")
    with pytest.raises(FsgError, match=r'^FSG_KERNELS: this processor has no kernels "sse9"; it has auto, '):
        active_kernels()
