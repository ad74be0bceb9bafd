"""The same native library in every interpreter it is said to work in."""

import subprocess
from pathlib import Path

import interpreters
import lce
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from fsg.runtime.library import delegate_path

IMAGES = np.random.default_rng(2).standard_normal((3, 9, 8, 20)).astype(np.float32)


def model() -> bytes:
    """All four operators, and neighbours that the delegate may claim: a residual block, a pooling, a padding."""
    rng = np.random.default_rng(1)
    builtin, operators = schema.BuiltinOperator, schema.BuiltinOptions
    graph = lce.Graph()
    source = graph.tensor([1, *IMAGES.shape[1:]])

    def add(code, inputs, shape, kind=None, **options):
        output = graph.tensor(shape)
        operator = graph.operator(getattr(builtin, code), inputs, [output])
        if kind is not None:
            operator.builtinOptionsType = getattr(operators, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for name, value in options.items():
                setattr(operator.builtinOptions, name, value)
        return output

    def conv(bits, channels_in, channels_out, **options):
        weights = rng.choice([-1, 1], (channels_out, 3, 3, channels_in))
        multiplier, bias = rng.standard_normal((2, channels_out)).astype(np.float32)
        return graph.conv(bits, lce.Conv(weights, padding=0, pad_values=1), multiplier, bias, **options)

    shape = [1, 9, 8, 20]
    first = conv(graph.quantize(source), 20, 20)
    added = add("ADD", [first, source], shape, "AddOptions", fusedActivationFunction=0)
    scaled = add("MUL", [added, graph.constant(rng.standard_normal(20).astype(np.float32))], shape, "MulOptions")
    bent = add("LEAKY_RELU", [scaled], shape, "LeakyReluOptions", alpha=0.25)
    pool = {"padding": 0, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}
    pooled = add("MAX_POOL_2D", [bent], [1, 5, 4, 20], "Pool2DOptions", **pool)
    bits = graph.quantize(pooled)
    joined = add("CONCATENATION", [conv(bits, 20, 12), pooled], [1, 5, 4, 32], "ConcatenationOptions", axis=3)
    borders = graph.constant(np.int32([[0, 0], [1, 1], [1, 0], [0, 0]]))
    padded = add("PADV2", [joined, borders, graph.constant(np.array(1, np.float32))], [1, 7, 5, 32])
    packed = graph.max_pool(graph.quantize(padded), (2, 2), (1, 1), 1)
    return graph.build([source], [conv(packed, 32, 16), graph.dequantize(packed, 32)])


@pytest.mark.slow
@pytest.mark.parametrize("option", ["fuse=0", "fuse=1"])
@pytest.mark.parametrize("name", interpreters.ENVIRONMENTS)
def test_interpreter(name, option, tmp_path):
    if not (interpreters.FOLDER / name / "installed").exists():
        pytest.skip(f"{name} is not installed: run `make interpreters`")
    (tmp_path / "model.tflite").write_bytes(model())
    np.save(tmp_path / "inputs.npy", IMAGES)
    command = [interpreters.python(name), Path(lce.__file__).with_name("run_in_interpreter.py")]
    child = subprocess.run([*command, delegate_path(), tmp_path, option], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-3000:]
    with np.load(tmp_path / "outputs.npz") as outputs:
        for batch in (1, len(IMAGES)):
            expected = lce.run(model(), IMAGES[:batch], kernels="scalar")
            for i, value in enumerate(expected):
                np.testing.assert_allclose(outputs[f"batch{batch}-{i}"], value, rtol=1e-5, atol=1e-5)
