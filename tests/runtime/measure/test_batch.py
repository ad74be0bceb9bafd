"""A file that takes several images at once is measured for one image, and says so."""

import io

import lce
import numpy as np
import pytest
import records
from onnx import TensorProto, helper
from rich.console import Console

from fsg.runtime.measure.estimate import PublishedBoard, estimate
from fsg.runtime.measure.local import benchmark
from fsg.runtime.model.tflite import images_at_once
from fsg.runtime.report.table import bench_table
from fsg.runtime.report.view import rows


def tflite(path, batch):
    """A binary convolution large enough for its time to grow with the batch."""
    rng = np.random.default_rng(0)
    graph = lce.Graph()
    source = graph.tensor([batch, 32, 32, 128])
    conv = lce.Conv(rng.choice([-1, 1], (128, 3, 3, 128)), padding=0)
    ones = np.ones(128, np.float32)
    path.write_bytes(graph.build([source], [graph.conv(graph.quantize(source), conv, ones, ones)]))
    return path


def onnx(path, batch):
    shape = [batch, 3, 64, 64]
    tensor = helper.make_tensor_value_info
    node = helper.make_node("Relu", ["image"], ["logits"])
    graph = helper.make_graph(
        [node], "g", [tensor("image", TensorProto.FLOAT, shape)], [tensor("logits", TensorProto.FLOAT, shape)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("make", [tflite, onnx])
def test_the_time_of_a_batch_is_shared_out(make, tmp_path):
    path = make(tmp_path / f"model.{make.__name__}", 16)
    record = benchmark(path, runs=10, warmup=2)
    assert record["batch"] == 16
    records.validate([{**record, "variant": "binary"}])
    # The first inference is not shared out, and cannot be faster than the fastest of 16 images together.
    assert record["first_run_ms"] > 8 * record["latency_ms"]["min"]


def test_a_batch_of_eight_is_estimated_as_one_image(tmp_path):
    one, eight = (tflite(tmp_path / f"{batch}.tflite", batch) for batch in (1, 8))
    assert (images_at_once(one), images_at_once(eight)) == (1, 8)
    single, together = (estimate(path, PublishedBoard()) for path in (one, eight))
    assert together["batch"] == 8 and together["binary_macs"] == 8 * single["binary_macs"]
    for name, value in single["latency_ms"].items():
        assert together["latency_ms"][name] == pytest.approx(value, rel=0.3)


def test_people_see_the_batch_where_there_is_one(tmp_path):
    path = records.model_file(tmp_path / "model.tflite")
    single = records.measured(path)
    assert "batch" not in rows([single])[0]
    headings, cells = rows([single, {**single, "batch": 8}])
    assert [row[headings.index("batch")] for row in cells] == ["1", "8"]
    console = Console(width=100, file=io.StringIO())
    console.print(bench_table([{**single, "batch": 8}]))
    assert "batch: images of one inference; its time is shared out among them" in console.file.getvalue()
