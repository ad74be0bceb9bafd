"""The delegate against LCE's own interpreter, on generated operators and on whole networks of Larq Zoo."""

import dataclasses
import itertools

import lce
import numpy as np
import oracle
import pytest

from fsg.runtime.library import possible_kernels

pytestmark = [
    pytest.mark.skipif(oracle.python() is None, reason="LCE's interpreter is not installed: run `make oracle`"),
    pytest.mark.xdist_group("oracle"),  # for networks are converted, and LCE's outputs made, once a process
]

TOLERANCE = 1e-5
SMALL = ("QuickNetSmall-96", "BiRealNet-96")  # where an image is smaller than its filter, LCE pads with zeros wrongly
ZOO = (
    "QuickNetSmall",
    "QuickNet",
    "QuickNetLarge",
    "BiRealNet",
    "RealToBinaryNet",
    "BinaryDenseNet28",
    "MeliusNet22",
    "BinaryAlexNet",
    "XNORNet",
)
CHANNELS = (3, 16, 31, 32, 48, 64, 96, 130, 1, 33, 128, 160)


@dataclasses.dataclass
class Case:
    """A model with one input, some inputs stacked, and whether its outputs are integers."""

    model: bytes
    inputs: np.ndarray


class Generator:
    """Random single operators and short chains, every kind in turn."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.channels = itertools.cycle(CHANNELS)
        self.kinds = [
            *[("conv", np.float32)] * 4,
            *[("conv", np.int8)] * 3,
            *[("conv", np.int32)] * 3,
            *[("quantize", kind) for kind in (np.float32, np.int8, np.bool_)],
            *[("dequantize", kind) for kind in (np.float32, np.int8, np.bool_)],
            *[("max_pool", np.int32)] * 2,
            *[("chain", np.float32)] * 2,
        ]

    def cases(self, count: int) -> dict[str, Case]:
        kinds = itertools.islice(itertools.cycle(self.kinds), count)
        return {
            f"{i:03d}-{kind}-{np.dtype(dtype).name}": getattr(self, kind)(dtype)
            for i, (kind, dtype) in enumerate(kinds)
        }

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def signs(self, *shape):
        return self.rng.choice([-1, 1], shape)

    def floats(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def size(self, reach=(1, 1)):
        """An image that a window of that reach fits."""
        return [int(self.rng.integers(n, n + 9)) for n in reach]

    def any_conv(self, channels_in, dtype):
        kernel = self.pick((1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (1, 4))
        dilation = self.pick((1, 1), (1, 1), (2, 2), (1, 3))
        stride = self.pick((1, 1), (1, 1), (2, 2), (1, 2), (3, 2))
        padding = self.pick(0, 0, 1)
        pad_values = 1 if dtype == np.int32 else self.pick(0, 1)  # LCE refuses packed outputs with zero padding
        weights = self.signs(next(self.channels), *kernel, channels_in)
        activation = 0 if dtype == np.int32 else self.pick(0, 0, 1, 2, 3)
        return lce.Conv(weights, stride, dilation, padding, pad_values, activation)

    def constants(self, conv, dtype):
        """Multiplier, bias and thresholds of a convolution that writes `dtype`, near its usual sums."""
        count, length = len(conv.weights), conv.weights[0].size
        if dtype == np.int32:
            spread = self.rng.normal(0, np.sqrt(length) / 2, count)
            return None, None, np.int32(np.round(length / 2 + spread))
        return self.floats(count), self.floats(count), None

    def quantization(self, dtype):
        if dtype != np.int8:
            return {}
        return {"scale": float(np.float32(self.rng.uniform(0.05, 2))), "zero_point": int(self.rng.integers(-128, 128))}

    def conv(self, dtype):
        channels = next(self.channels)
        conv = self.any_conv(channels, dtype)
        reach = [(k - 1) * d + 1 for k, d in zip(conv.weights.shape[1:3], conv.dilation, strict=True)]
        inputs = lce.pack(self.signs(3, self.pick(1, 2), *self.size(reach), channels))
        graph = lce.Graph()
        source = graph.tensor(inputs.shape[1:], np.int32)
        output = graph.conv(source, conv, *self.constants(conv, dtype), dtype=dtype, **self.quantization(dtype))
        return Case(graph.build([source], [output]), inputs)

    def values(self, dtype, shape):
        if dtype == np.float32:
            return np.where(self.rng.random(shape) < 0.1, self.pick(0.0, -0.0), self.floats(*shape)).astype(np.float32)
        return self.rng.integers(-128, 128, shape).astype(np.int8) if dtype == np.int8 else self.rng.random(shape) < 0.5

    def quantize(self, dtype):
        inputs = self.values(dtype, (3, self.pick(1, 2), *self.size(), next(self.channels)))
        graph = lce.Graph()
        source = graph.tensor(inputs.shape[1:], dtype, **self.quantization(dtype))
        return Case(graph.build([source], [graph.quantize(source)]), inputs)

    def dequantize(self, dtype):
        channels = next(self.channels)
        inputs = lce.pack(self.signs(3, 1, *self.size(), channels))
        graph = lce.Graph()
        source = graph.tensor(inputs.shape[1:], np.int32)
        return Case(
            graph.build([source], [graph.dequantize(source, channels, dtype, **self.quantization(dtype))]), inputs
        )

    def max_pool(self, _):
        window = self.pick((2, 2), (3, 3), (1, 3), (4, 2))
        inputs = lce.pack(self.signs(3, 1, *self.size(window), next(self.channels)))
        graph = lce.Graph()
        source = graph.tensor(inputs.shape[1:], np.int32)
        output = graph.max_pool(source, window, self.pick((1, 1), (2, 2), (2, 3)), self.pick(0, 1))
        return Case(graph.build([source], [output]), inputs)

    def chain(self, _):
        """float -> bits -> packed convolution -> pooling -> float convolution."""
        channels = next(self.channels)
        inputs = self.floats(3, 1, *self.size((12, 12)), channels)
        graph = lce.Graph()
        source = graph.tensor(inputs.shape[1:])
        first = lce.Conv(self.signs(next(self.channels), 3, 3, channels), padding=0, pad_values=1)
        bits = graph.conv(graph.quantize(source), first, *self.constants(first, np.int32), dtype=np.int32)
        pooled = graph.max_pool(bits, (2, 2), (2, 2), 0)
        second = lce.Conv(self.signs(next(self.channels), 3, 3, len(first.weights)), padding=0)
        output = graph.conv(pooled, second, *self.constants(second, np.float32))
        return Case(graph.build([source], [output]), inputs)


GENERATED = Generator(4).cases(120)


@pytest.fixture(scope="module")
def lce_outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operators")
    return oracle.run_lce(folder, {name: (case.model, case.inputs) for name, case in GENERATED.items()})


def delegate_outputs(model, inputs, **options) -> list[np.ndarray]:
    """The stacked outputs of a stock interpreter with the delegate."""
    interpreter = lce.interpret(model, **options)
    source = interpreter.get_input_details()[0]["index"]
    runs = []
    for value in inputs:
        interpreter.set_tensor(source, value)
        interpreter.invoke()
        runs.append([interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()])
    return [np.stack(values) for values in zip(*runs, strict=True)]


def difference(got, expected) -> float:
    """L2 of the difference relative to that of what is expected."""
    return float(np.linalg.norm(np.float64(got) - expected) / max(np.linalg.norm(np.float64(expected)), 1e-30))


def test_enough_operators_are_compared(lce_outputs):
    refused = {name: why for name, why in lce_outputs.items() if isinstance(why, str)}
    assert len(GENERATED) - len(refused) >= 100, refused


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("kernels", possible_kernels())
def test_operators_agree_with_lce(name, kernels, lce_outputs):
    expected = lce_outputs[name]
    if isinstance(expected, str):
        pytest.skip(f"LCE refuses it: {expected}")
    case = GENERATED[name]
    for got, value in zip(delegate_outputs(case.model, case.inputs, kernels=kernels), expected, strict=True):
        assert got.dtype == value.dtype and got.shape == value.shape
        if value.dtype == np.float32:
            assert difference(got, value) <= TOLERANCE
        else:
            np.testing.assert_array_equal(got, value)


class Network:
    """A network of Larq Zoo in LCE's interpreter: its scores and the activations that become signs."""

    def __init__(self, name, zoo, folder):
        self.model = zoo.model(name)
        self.exposed = oracle.exposed(self.model)
        size = int(name.partition("-")[2] or 224)
        self.images = np.random.default_rng(7).standard_normal((3, 1, size, size, 3)).astype(np.float32)
        self.scores, *self.activations = oracle.run_lce(folder, {name: (self.exposed, self.images)})[name]

    def unambiguous(self, options) -> np.ndarray:
        """Which images the delegate sees with the same signs as LCE throughout, after a check of the others.

        A sign may differ where float arithmetic in another order carries an activation across zero; what follows
        from it is another computation. So the first that differs must be close to zero.
        """
        same = np.ones(len(self.images), bool)
        _, *activations = delegate_outputs(self.exposed, self.images, **options)
        for got, expected in zip(activations, self.activations, strict=True):
            for i in np.flatnonzero(same):
                flipped = (got[i] < 0) != (expected[i] < 0)
                assert np.all(np.abs(expected[i][flipped]) <= TOLERANCE)
                same[i] = not flipped.any()
                assert not same[i] or difference(got[i], expected[i]) <= TOLERANCE
        return same

    def check(self, **options):
        same = self.unambiguous(options)
        assert same.any(), "no image without a sign in doubt: nothing was compared"
        (scores,) = delegate_outputs(self.model, self.images[same], **options)
        for got, expected in zip(scores, self.scores[same], strict=True):
            assert difference(got, expected) <= TOLERANCE
            assert got.argmax() == expected.argmax()


@pytest.fixture(scope="session")
def zoo(request):
    """All networks that this run asks for, the later ones converted while the first are compared."""
    asking = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    names = [params[kind] for params in asking for kind in ("small_network", "zoo_network") if kind in params]
    with oracle.Zoo(dict.fromkeys(names)) as zoo:
        yield zoo


@pytest.fixture(scope="module", params=SMALL)
def small_network(request, zoo, tmp_path_factory):
    return Network(request.param, zoo, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module", params=ZOO)
def zoo_network(request, zoo, tmp_path_factory):
    return Network(request.param, zoo, tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("fuse", ["0", "1"])
@pytest.mark.parametrize("kernels", possible_kernels())
def test_small_networks_agree_with_lce(small_network, kernels, fuse):
    small_network.check(kernels=kernels, fuse=fuse)


@pytest.mark.slow
@pytest.mark.parametrize("fuse", ["0", "1"])
@pytest.mark.parametrize("kernels", possible_kernels())
def test_zoo_agrees_with_lce(zoo_network, kernels, fuse):
    zoo_network.check(kernels=kernels, fuse=fuse)
