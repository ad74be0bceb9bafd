"""Measurements in child processes, and the table made of them."""

import io
import json
import subprocess
import sys

import lce
import numpy as np
import pytest
from rich.console import Console

from fsg import FsgError, __version__
from fsg.runtime import active_kernels
from fsg.runtime.benchmark import benchmark
from fsg.runtime.report import bench_table


def model(channels):
    graph = lce.Graph()
    source = graph.tensor([1, 16, 16, channels])
    conv = lce.Conv(np.random.default_rng(0).choice([-1, 1], (channels, 3, 3, channels)), padding=0)
    ones = np.ones(channels, np.float32)
    return graph.build([source], [graph.conv(graph.quantize(source), conv, ones, ones)])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "model.tflite"
    path.write_bytes(model(64))
    return path


@pytest.fixture(scope="module")
def record(path):
    return benchmark(path, threads=2, runs=20, warmup=2)


def test_record_describes_itself(path, record):
    assert record["artefact"] == str(path)
    assert (record["format"], record["device"], record["kind"]) == ("tflite", "local", "measured")
    assert (record["threads"], record["runs"]) == (2, 20)
    assert record["size_bytes"] == path.stat().st_size
    assert (record["kernels"], record["fsg_version"]) == (active_kernels(), __version__)
    assert json.loads(json.dumps(record)) == record


def test_record_is_plausible(record):
    latency = record["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
    assert latency["min"] <= latency["mean"] <= 1000
    assert 10e6 < record["base_rss_bytes"] < record["peak_rss_bytes"] < 1e9


def test_more_work_takes_longer(tmp_path, record):
    path = tmp_path / "wide.tflite"
    path.write_bytes(model(512))
    assert benchmark(path, runs=5)["latency_ms"]["min"] > 3 * record["latency_ms"]["min"]


def test_errors_are_one_line(tmp_path, path):
    with pytest.raises(FsgError, match="no such file"):
        benchmark(tmp_path / "missing.tflite")
    with pytest.raises(FsgError, match="runs is 0; give at least 1"):
        benchmark(path, runs=0)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(FsgError, match=r"broken\.tflite: .*") as caught:
        benchmark(broken)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_a_killed_child_is_reported(path, monkeypatch):
    dies = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: dies)
    with pytest.raises(FsgError, match="killed by SIGKILL; is there enough memory"):
        benchmark(path)


def test_the_module_is_a_program(path):
    command = [sys.executable, "-m", "fsg.runtime.benchmark", str(path), "--runs=3", "--warmup=0"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(output)["runs"] == 3


def test_table_fits_a_terminal(record):
    console = Console(width=80, record=True, file=io.StringIO())
    latency = dict.fromkeys(record["latency_ms"], 1234.567)
    console.print(bench_table([record, {**record, "threads": 4, "latency_ms": latency, "size_bytes": 29_123_456}]))
    text = console.export_text()
    lines = text.splitlines()
    rows = [line for line in lines if "model.tflite" in line]
    assert len(rows) == 2 and "29.1 MB" in rows[1] and "1234.6" in rows[1] and "measured" in rows[0]
    assert all(word in text for word in ("median", "p99", "memory", "threads", "20 runs"))
