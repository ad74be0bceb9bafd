"""The names and times of what LiteRT and XNNPACK run around the delegate's partitions."""

import io

import numpy as np
import pytest
import records
from rich.console import Console

from fsg import FsgError
from fsg.runtime.measure.bench import finished
from fsg.runtime.measure.local import benchmark
from fsg.runtime.measure.records import Model
from fsg.runtime.measure.stretches import named_ops
from fsg.runtime.model.cut import Cutter
from fsg.runtime.model.session import open_model
from fsg.runtime.report.table import bench_table

STEM, HEAD = (
    ["PAD + CONV_2D 3x3 -> 8x8x64", "CONV_2D 1x1 -> 8x8x64"],
    ["CONV_2D 1x1 -> 8x8x64", "MAX_POOL_2D 8x8 -> 1x1x64"],
)
OWNERS = [-1, -1, -1, 0, 0]  # LiteRT has the stem, and the head behind the end


@pytest.fixture
def path(tmp_path):
    return records.mixed_file(tmp_path / "model.tflite")


def profile(partition=0):
    """What a profile notes of it, with a pause within the partition."""
    fsg = {"name": "LceQuantize", "kind": "fsg", "us": 1.0, "binary_macs": 0, "partition": partition}
    rest = {"name": "LiteRT and XNNPACK", "kind": "rest", "binary_macs": 0}
    return [{**rest, "us": 30.0}, fsg, {**rest, "us": 2.0}, fsg, {**rest, "us": 8.0}]


def test_a_stretch_is_shared_out_as_its_operators_take(path):
    asked = []

    def alone(file):
        asked.append(file.read_bytes())
        return {"us": [2.0, 4.0, 12.0][len(asked) - 1]}

    ops = named_ops(path, profile(), OWNERS, alone)
    assert [op["name"] for op in ops] == [*STEM, "LceQuantize", "between fsg's operators", "LceQuantize", *HEAD]
    assert [op["us"] for op in ops] == pytest.approx([10, 20, 1, 2, 1, 2, 6])
    assert [op.get("stretch_us") for op in ops] == [30, 30, None, None, None, 8, 8]
    assert len(asked) == 3  # the two convolutions of one point do the same
    assert ops[1]["float_macs"] == 64**3 and not any("partition" in op for op in ops)


def test_what_cannot_be_timed_is_listed(path):
    def alone(file):
        raise FsgError("no")

    ops = named_ops(path, profile(), OWNERS, alone)
    assert (ops[0]["name"], ops[0]["us"]) == (", ".join(STEM), 30.0)
    assert ops[-1]["name"] == ", ".join(HEAD) and not any("stretch_us" in op for op in ops)


def test_one_operator_needs_no_other_measurement(path):
    # The delegate has the head's convolution as well, and the stem's second one.
    ops = named_ops(path, profile(), [-1, -1, 0, 0, 0, 0], lambda file: pytest.fail("timed"))
    assert (ops[0]["name"], ops[0]["us"], ops[0]["float_macs"]) == (STEM[0], 30.0, 64 * 64 * 9 * 4)
    assert (ops[-1]["name"], ops[-1]["us"]) == (HEAD[1], 8.0) and not any("stretch_us" in op for op in ops)


@pytest.mark.parametrize("owners", [[], [0, -1, -1, 0], [-1, -1, -1, 7, 7]])
def test_stretches_of_other_partitions_have_no_names(path, owners):
    """Unknown ones, and one that would have to run before and after LiteRT at once."""
    ops = named_ops(path, profile(), owners, lambda file: pytest.fail("timed"))
    rest = [op["name"] for op in ops if op["kind"] == "rest"]
    assert rest == ["LiteRT and XNNPACK", "between fsg's operators", "LiteRT and XNNPACK"]


def test_cut_operators_compute_what_the_model_does(path, tmp_path):
    cutter, value = Cutter(path), np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
    expected = open_model(path)(value)
    for i, numbers in enumerate([*cutter.joined([0, 1, 2]), [3, 4], [5], [6]]):
        file = tmp_path / f"{i}.tflite"
        file.write_bytes(cutter.cut(numbers))
        value = open_model(file)(value)
        value = value.reshape(1, 64, 8, 8) if value.size > 64 else value
    np.testing.assert_allclose(value.ravel(), expected.ravel(), rtol=1e-5)


def test_a_measured_profile_has_every_operator(path):
    record = benchmark(path, runs=9, warmup=1, profile=True)
    rest = [op for op in record["ops"] if "float_macs" in op]
    assert [op["name"] for op in rest] == [*STEM, *HEAD]
    for stretch in (rest[:2], rest[2:]):
        assert sum(op["us"] for op in stretch) == pytest.approx(stretch[0]["stretch_us"]) and stretch[1]["us"] > 0
    (record,) = finished([record], [Model(path)], None)
    records.validate([record])
    assert record["ops"][0]["gmacs_per_s"] > 0 and record["ops"][0]["stretch_us"] > record["ops"][0]["us"]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(bench_table([record]))
    text = console.export_text()
    assert "CONV_2D 3x3 -> 8x8x64" in text and "~: share of the measured time of several operators in a row" in text
    assert text.count("rest ~") + text.count("rest  ~") == 4
