"""Files that take something else than one float image are measured, too, and say no accuracy."""

import json

import lce
import numpy as np
import pytest
import records
from onnx import TensorProto, helper

from fsg import FsgError
from fsg.runtime.measure import emulate
from fsg.runtime.measure.local import benchmark
from fsg.runtime.model.session import open_model


def int8_image(graph):
    source = graph.tensor([2, 8, 8, 32], np.int8, scale=0.5, zero_point=3)
    conv = lce.Conv(np.random.default_rng(0).choice([-1, 1], (32, 3, 3, 32)), padding=0)
    bits = graph.quantize(graph.conv(graph.quantize(source), conv, np.ones(32, np.float32), np.zeros(32, np.float32)))
    return [source], graph.dequantize(bits, 32, np.int8, scale=1.0)


def uint8_image(graph):
    source = graph.tensor([2, 8, 8, 3], np.uint8)
    return [source], graph.builtin("CAST", [source], [2, 8, 8, 3])


def two_images(graph):
    sources = [graph.tensor([2, 8, 8, 3]), graph.tensor([2, 8, 8, 3])]
    return sources, graph.builtin("ADD", sources, [2, 8, 8, 3])


def words(graph):
    """Indices of a table of two: any others would be read beside it."""
    source = graph.tensor([2, 16], np.int32)
    table = graph.constant(np.zeros((2, 5), np.float32))
    return [source], graph.builtin("GATHER", [table, source], [2, 16, 5])


def vectors(graph):
    source = graph.tensor([2, 7])
    return [source], graph.builtin("RELU", [source], [2, 7])


@pytest.mark.parametrize("make", [int8_image, uint8_image, two_images, words, vectors])
def test_tflite(make, tmp_path):
    graph, path = lce.Graph(), tmp_path / "model.tflite"
    inputs, output = make(graph)
    path.write_bytes(graph.build(inputs, [output]))
    check(path)


@pytest.mark.slow
@pytest.mark.skipif(emulate.why_not() is not None, reason=str(emulate.why_not()))
@pytest.mark.parametrize("make", [int8_image, uint8_image, two_images, words, vectors])
def test_the_program_for_boards(make, tmp_path):
    graph, path = lce.Graph(), tmp_path / "model.tflite"
    inputs, output = make(graph)
    path.write_bytes(graph.build(inputs, [output]))
    with emulate._machine(path, "cortex-a72", 1, None) as machine:
        assert machine.run("--warmup", "2")["kernels"] == "neon-a72"


def onnx_model(path, op, inputs, output, **attributes):
    """One operator on named inputs, each of a type and a shape."""
    tensor = helper.make_tensor_value_info
    sources = [tensor(f"input{i}", kind, shape) for i, (kind, shape) in enumerate(inputs)]
    node = helper.make_node(op, [source.name for source in sources], ["output"], **attributes)
    graph = helper.make_graph([node], "g", sources, [tensor("output", output, None)])
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )


IMAGE = [2, 3, 8, 8]


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes"),
    [
        ("Cast", [(TensorProto.INT8, IMAGE)], TensorProto.FLOAT, {"to": TensorProto.FLOAT}),
        ("Cast", [(TensorProto.FLOAT, IMAGE)], TensorProto.UINT8, {"to": TensorProto.UINT8}),
        ("Cast", [(TensorProto.UINT8, [2, "C", "H", "W"])], TensorProto.FLOAT, {"to": TensorProto.FLOAT}),
        ("Relu", [(TensorProto.FLOAT, [2, 3, "H", "W"])], TensorProto.FLOAT, {}),
        ("Cast", [(TensorProto.FLOAT16, IMAGE)], TensorProto.DOUBLE, {"to": TensorProto.DOUBLE}),
        ("Add", [(TensorProto.FLOAT, IMAGE), (TensorProto.FLOAT, [3, 1, 1])], TensorProto.FLOAT, {}),
        ("Add", [(TensorProto.DOUBLE, [2, 9]), (TensorProto.DOUBLE, [])], TensorProto.DOUBLE, {}),
        ("Gather", [(TensorProto.FLOAT, [2, 5]), (TensorProto.INT64, ["N", 4])], TensorProto.FLOAT, {}),
        ("Where", [(TensorProto.BOOL, [2, 5]), *[(TensorProto.INT32, [2, 5])] * 2], TensorProto.INT32, {}),
    ],
)
def test_onnx(op, inputs, output, attributes, tmp_path):
    path = tmp_path / "model.onnx"
    onnx_model(path, op, inputs, output, **attributes)
    check(path)


def check(path):
    session = open_model(path, any_inputs=True)
    session.fill()
    session.invoke()
    record = benchmark(path, runs=3, warmup=1, profile=True)
    assert record["batch"] == 2 and record["latency_ms"]["p50"] > 0 and "accuracy" not in record
    records.validate([{**record, "variant": "binary", "ops": []}])


def test_the_command_measures_them(fsg, tmp_path):
    graph, path = lce.Graph(), tmp_path / "int8.tflite"
    inputs, output = int8_image(graph)
    path.write_bytes(graph.build(inputs, [output]))
    onnx_model(tmp_path / "two.onnx", "Add", [(TensorProto.FLOAT, IMAGE)] * 2, TensorProto.FLOAT)
    code, out, err = fsg("bench", str(path), str(tmp_path / "two.onnx"), "--runs", "3", "--profile", "--json", "-")
    assert code == 0, err
    assert [(r["format"], r["kind"], r.get("accuracy")) for r in json.loads(out)] == [
        ("tflite", "measured", None),
        ("onnx", "measured", None),
    ]


def test_what_cannot_be_filled_or_classified_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    onnx_model(path, "Identity", [(TensorProto.STRING, [1, 2])], TensorProto.STRING)
    with pytest.raises(FsgError, match=r"model\.onnx: its inputs must be numbers or truth values .*; one is string"):
        benchmark(path, runs=1)
    with pytest.raises(FsgError, match="expected one float32 image"):
        open_model(path)
