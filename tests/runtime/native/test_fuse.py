"""Random networks with everything the delegate fuses: fused, unfused and in plain NumPy they give the same bits."""

import lce
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate
from hypothesis import given, settings
from hypothesis import strategies as st

from fsg.runtime.library import delegate_path, possible_kernels

ACTIVATIONS = [(-np.inf, np.inf), (0, np.inf), (-1, 1), (0, 6)]
SAME, VALID = 0, 1  # of the schema's pooling
KERNELS = possible_kernels()


class Network:
    """A graph that grows with the values of its tensors: every method returns (tensor, what it should hold)."""

    def __init__(self, seed, batch):
        self.rng = np.random.default_rng(seed)
        self.graph = lce.Graph()
        self.batch = batch
        self.inputs, self.values = [], []
        self.made = []  # float tensors, any of which may be an output of the model

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def normals(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def input(self, *shape):
        value = self.normals(*shape)
        self.inputs.append(self.graph.tensor(shape))
        self.values.append(value)
        return self.inputs[-1], value

    def constant(self, value):
        return self.graph.constant(value), value

    def node(self, name, inputs, value, **options):
        value = value.astype(np.float32)
        self.made.append((self.graph.builtin(name, [t for t, _ in inputs], value.shape, **options), value))
        return self.made[-1]

    def arithmetic(self, name, a, b, activation=0):
        functions = {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply}
        value = np.clip(functions[name](a[1], b[1]), *ACTIVATIONS[activation])
        return self.node(name, [a, b], value, fusedActivationFunction=activation)

    def unary(self, name, x):
        functions = {
            "RELU": lambda v: np.clip(v, 0, None),
            "RELU6": lambda v: np.clip(v, 0, 6),
            "RELU_N1_TO_1": lambda v: np.clip(v, -1, 1),
            "NEG": np.negative,
            "ABS": np.abs,
            "FLOOR": np.floor,
        }
        return self.node(name, [x], functions[name](x[1]))

    def operand(self, x):
        """Something to combine with x: constant or not, per value, channel, image or whole."""
        batch, *_, channels = x[1].shape
        constants = [(channels,), (1, 1, 1, channels), (1,), ()]
        tensors = [(batch, 1, 1, channels), x[1].shape, x[1].shape, (1, channels), (1, 1, 1, channels)]
        if self.rng.random() < 0.5:
            return self.constant(self.normals(*self.pick(*constants)))
        same = [made for made in self.made if made[1].shape == x[1].shape]
        if same and self.rng.random() < 0.7:
            return self.pick(*same)
        return self.input(*self.pick(*tensors))

    def combine(self, x):
        name = self.pick("ADD", "ADD", "SUB", "MUL")
        pair = [x, self.operand(x)]
        if self.rng.random() < 0.3:
            pair.reverse()
        return self.arithmetic(name, *pair, activation=int(self.rng.integers(4)))

    def bound(self, x):
        name = self.pick("MAXIMUM", "MINIMUM")
        other = self.constant(self.normals(x[1].shape[3]))
        function = np.maximum if name == "MAXIMUM" else np.minimum
        return self.node(name, [x, other], function(x[1], other[1]))

    def leaky(self, x):
        alpha = np.float32(self.rng.uniform(-0.5, 0.5))
        return self.node("LEAKY_RELU", [x], np.where(x[1] < 0, alpha * x[1], x[1]), alpha=alpha)

    def prelu(self, x):
        slope = self.constant(self.normals(1, 1, x[1].shape[3]))
        return self.node("PRELU", [x, slope], np.where(x[1] < 0, slope[1] * x[1], x[1]))

    def written_prelu(self, x):
        """The forms that converters leave of a parametric ReLU."""
        slope = self.constant(self.normals(x[1].shape[3]))
        form = self.rng.integers(4)
        if form == 0:
            negative = self.arithmetic("MUL", self.unary("RELU", self.unary("NEG", x)), slope)
            return self.arithmetic("ADD", self.unary("RELU", x), negative)
        if form == 1:
            zero = self.constant(np.float32(0))
            low = self.node("MINIMUM", [x, zero], np.minimum(x[1], zero[1]))
            high = self.node("MAXIMUM", [x, zero], np.maximum(x[1], zero[1]))
            return self.arithmetic("ADD", self.arithmetic("MUL", slope, low), high)
        if form == 2:
            return self.arithmetic("SUB", x, self.arithmetic("MUL", self.unary("ABS", x), slope), activation=1)
        return self.arithmetic("MUL", self.arithmetic("ADD", x, slope, activation=3), x)

    def elementwise(self, x):
        names = ["RELU", "RELU6", "RELU_N1_TO_1", "NEG", "ABS"]
        ways = [self.combine] * 4 + [self.bound, self.leaky, self.prelu, self.written_prelu, self.written_prelu]
        for _ in range(self.rng.integers(4)):
            x = self.unary(self.pick(*names), x) if self.rng.random() < 0.2 else self.pick(*ways)(x)
        return x

    def pad(self, x, before, after, value=None):
        pads = np.array([before, after], np.int32).T.copy()
        inputs = [x, self.constant(pads)]
        if value is not None:
            inputs.append(self.constant(np.float32(value)))
        padded = np.pad(x[1], pads, constant_values=value or 0)
        return self.node("PADV2" if value is not None else "PAD", inputs, padded)

    def spatial_pad(self, x):
        (top, left, bottom, right), value = self.rng.integers(3, size=4), self.pick(None, 1.0, -1.0, 0.0)
        return self.pad(x, (0, top, left, 0), (0, bottom, right, 0), value)

    def max_pool(self, x):
        padding, activation = self.pick(SAME, VALID), self.pick(0, 0, 1, 3)
        size = x[1].shape[1:3]
        window, stride = [[int(self.rng.integers(1, min(4, n + 1))) for n in size] for _ in range(2)]
        pooled = np.clip(pool(x[1], window, stride, padding), *ACTIVATIONS[activation])
        options = {"filterHeight": window[0], "filterWidth": window[1], "strideH": stride[0], "strideW": stride[1]}
        return self.node("MAX_POOL_2D", [x], pooled, padding=padding, fusedActivationFunction=activation, **options)

    def quantize(self, x):
        return self.graph.quantize(x[0]), np.where(x[1] < 0, -1, 1)

    def convolve(self, bits, stride=1, out=None):
        tensor, signs = bits
        size = [int(self.rng.integers(1, min(4, n + 1))) for n in signs.shape[1:3]]
        out = out or int(self.pick(16, 32, 64, 7, 40, 100))
        weights = self.rng.choice(np.array([-1, 1], np.int32), (out, *size, signs.shape[3]))
        conv = lce.Conv(
            weights,
            stride=(stride, stride),
            padding=self.pick(0, 0, 1) if stride == 1 else 1,
            pad_values=self.pick(0, 1),
            activation=int(self.rng.integers(4)),
        )
        multiplier, bias = self.normals(out) / 8, self.normals(out)
        value = conv.outputs(signs, multiplier, bias).astype(np.float32)
        self.made.append((self.graph.conv(tensor, conv, multiplier, bias), value))
        return self.made[-1]

    def concatenate(self, parts):
        value = np.concatenate([v for _, v in parts], axis=3)
        return self.node("CONCATENATION", parts, value, axis=self.pick(3, -1))

    def dense(self, x, y):
        """y beside x or, between zeros, added to some of x's channels."""
        parts = [part for part in (x, y, self.pick(*self.made)) if part[1].shape[:3] == x[1].shape[:3]]
        if len(parts) > 1 and self.rng.random() < 0.6:
            return self.concatenate(parts)
        room = x[1].shape[3] - y[1].shape[3]
        if y[1].shape[:3] != x[1].shape[:3] or room < 0:
            return y
        before = self.pick(0, room, room // 2)
        padded = self.pad(y, (0, 0, 0, before), (0, 0, 0, room - before))
        return self.arithmetic("ADD", x, padded)

    def block(self, x):
        before = x
        way = self.rng.integers(6)
        if way == 0:
            before = self.spatial_pad(x)
        elif way == 1:
            before = self.max_pool(x)
        elif way == 2:
            before = self.unary("FLOOR", x)  # that nobody claims
        y = self.elementwise(self.convolve(self.quantize(before), stride=self.pick(1, 1, 2)))
        if self.rng.random() < 0.4:
            y = self.elementwise(self.dense(x, y))
        return y

    def build(self):
        """The model, its outputs in order."""
        count = min(len(self.made), 1 + int(self.rng.integers(4)))
        chosen = self.rng.choice(len(self.made) - 1, count - 1, replace=False) if count > 1 else []
        outputs = [self.made[i] for i in {*map(int, chosen), len(self.made) - 1}]
        return self.graph.build(self.inputs, [t for t, _ in outputs]), [v for _, v in outputs]


def pool(x, window, stride, padding):
    axes = zip(x.shape[1:3], window, stride, strict=True)
    (height, top, bottom), (width, left, right) = [lce.axis_window(*axis, 1, padding) for axis in axes]
    x = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=-np.inf)
    rows, columns = (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1
    views = [x[:, i : i + rows : stride[0], j : j + columns : stride[1]] for i, j in np.ndindex(*window)]
    return np.max(views, axis=0)


def random_network(seed, batch, blocks):
    network = Network(seed, batch)
    height, width = network.rng.integers(4, 12, 2)
    x = network.input(batch, int(height), int(width), int(network.pick(16, 32, 64, 5, 48)))
    if network.rng.random() < 0.5:
        x = network.unary("FLOOR", x)
    x = network.elementwise(x)
    for _ in range(blocks):
        x = network.block(x)
    return network


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 5), st.sampled_from(KERNELS))
def test_random_networks(seed, batch, blocks, kernels):
    network = random_network(seed, batch, blocks)
    model, expected = network.build()
    unfused = lce.run(model, *network.values, kernels=kernels, fuse="0")
    fused = lce.run(model, *network.values, kernels=kernels, fuse="1")
    for left, right, value in zip(fused, unfused, expected, strict=True):
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(left, value)


def claimed(network, output):
    """How many partitions the delegate runs, and the tensors that come out of them."""
    model = network.graph.build(network.inputs, [output[0]])
    interpreter = Interpreter(
        model_content=model,
        experimental_delegates=[load_delegate(delegate_path())],
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    nodes = [node for node in interpreter._get_ops_details() if node["op_name"] == "DELEGATE"]
    return len(nodes), {int(t) for node in nodes for t in node["outputs"]}


@pytest.mark.parametrize(
    "tail",
    [
        lambda n, x: n.arithmetic("ADD", n.arithmetic("MUL", x, n.constant(n.normals(32))), n.constant(n.normals(32))),
        lambda n, x: n.arithmetic("MUL", x, n.input(1, 32), activation=3),
        lambda n, x: n.leaky(n.prelu(x)),
        lambda n, x: n.unary("RELU6", n.written_prelu(x)),
        lambda n, x: n.arithmetic("ADD", n.input(1, 7, 7, 40), n.pad(x, (0, 0, 0, 8), (0, 0, 0, 0))),
        lambda n, x: n.concatenate([n.input(1, 7, 7, 8), x]),
        lambda n, x: n.spatial_pad(x),
        lambda n, x: n.max_pool(x),
    ],
    ids=[
        "affine",
        "scale of the image",
        "activations",
        "written PReLU",
        "channel padding",
        "concatenation",
        "pad",
        "pool",
    ],
)
def test_what_stands_between_two_convolutions_is_one_partition(tail):
    for seed in range(4):
        network = Network(seed, 1)
        x = network.unary("FLOOR", network.input(1, 7, 7, 32))
        conv = lce.Conv(network.rng.choice([-1, 1], (32, 3, 3, 32)), padding=0, pad_values=1)
        signs = np.where(x[1] < 0, -1, 1)
        multiplier, bias = network.normals(2, 32)
        first = network.graph.conv(network.graph.quantize(x[0]), conv, multiplier, bias)
        y = tail(network, network.arithmetic("ADD", (first, conv.outputs(signs, multiplier, bias)), x))
        last = network.convolve((network.graph.quantize(y[0]), np.where(y[1] < 0, -1, 1)))
        assert claimed(network, last) == (1, {last[0]})
        model = network.graph.build(network.inputs, [last[0]])
        np.testing.assert_array_equal(lce.run(model, *network.values)[0], last[1])


def test_a_float_stretch_stays_with_the_interpreter():
    network = Network(0, 1)
    x = network.input(1, 6, 6, 32)
    for _ in range(3):
        x = network.arithmetic("ADD", network.unary("RELU", x), network.constant(network.normals(32)))
    quantized = network.unary("FLOOR", x)
    y = network.convolve((network.graph.quantize(quantized[0]), np.where(quantized[1] < 0, -1, 1)))
    assert claimed(network, y) == (1, {y[0]})
    with_output = network.graph.build(network.inputs, [y[0], x[0]])
    np.testing.assert_array_equal(lce.run(with_output, *network.values)[1], x[1])


def test_batches_may_change():
    """The shortcut, the concatenation and the scale of each image follow the batch."""
    network = random_network(11, 1, 4)
    model, expected = network.build()
    alone = lce.run(model, *network.values)
    for value, right in zip(alone, expected, strict=True):
        np.testing.assert_array_equal(value, right)
    batch = [np.concatenate([v, v, v]) if v.ndim == 4 else v for v in network.values]
    for value, right in zip(lce.run(model, *batch), expected, strict=True):
        np.testing.assert_array_equal(value, np.concatenate([right] * 3))
