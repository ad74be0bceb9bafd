"""Measurements in child processes, and the table made of them."""

import ctypes
import io
import json
import os
import subprocess
import sys
import time

import lce
import numpy as np
import pytest
from rich.console import Console

from fsg import FsgError, __version__
from fsg.runtime.library import active_kernels, native_function
from fsg.runtime.measure.local import benchmark
from fsg.runtime.measure.profile import Profile
from fsg.runtime.model.session import open_model
from fsg.runtime.report.table import bench_table


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


def test_the_process_stays_on_the_cores_and_pauses(path):
    core = max(os.sched_getaffinity(0))
    start = time.perf_counter()
    record = benchmark(path, runs=10, warmup=0, cpus=[core], cooldown_ms=50)
    assert time.perf_counter() - start > 0.5 and record["latency_ms"]["p50"] < 50
    assert (record["cpus"], record["cooldown_ms"], record["warmup"]) == ([core], 50, 0)
    with pytest.raises(FsgError, match=r"--cpus 4000: not all of them are here; there are .*0"):
        benchmark(path, cpus=[4000])


def test_a_profile_adds_up(tmp_path):
    path = tmp_path / "wide.tflite"
    path.write_bytes(model(512))
    record = benchmark(path, runs=50, profile=True)
    ops = record["ops"]
    assert [op["kind"] for op in ops if op["kind"] == "fsg"] and ops[-1]["kind"] in ("fsg", "rest")
    (conv,) = [op for op in ops if op["name"].startswith("LceBconv2d 16x16x512 -> 512, 3x3")]
    assert conv["binary_macs"] == 16 * 16 * 512 * 9 * 512 and conv["us"] > 10
    # Of the same runs, so that nothing but medians stands between the two.
    assert sum(op["us"] for op in ops) / 1e3 == pytest.approx(record["latency_ms"]["p50"], rel=0.1)
    assert "ops" not in benchmark(path, runs=1)


def test_a_profile_is_of_the_runs_it_watched(tmp_path):
    path = tmp_path / "wide.tflite"
    path.write_bytes(model(512))
    session = open_model(path)
    with Profile(session) as watched:
        times = []
        for _ in range(9):
            begin = time.monotonic()
            session.invoke()
            times.append(time.monotonic() - begin)
            watched.note(begin, begin + times[-1])
    total = sum(op["us"] for op in watched.ops()) / 1e6
    assert total == pytest.approx(float(np.median(times)), rel=0.1)
    session.invoke()  # nobody watches any more
    assert native_function("fsg_profiled")(ctypes.c_void_p(session.delegate_pointer)) == 0


COUNT_THREADS = """
import os, sys
import numpy as np
from fsg.runtime.model.session import open_model
def threads(count):
    session = open_model(sys.argv[1], num_threads=count, delegate=sys.argv[2] == "1")
    for _ in range(3):
        session(np.zeros((1, *session.input_shape), np.float32))
    return len(os.listdir("/proc/self/task")), session
one, first = threads(1)
three, second = threads(3)
print(three - one)
"""


def test_threads_are_those_of_the_delegate_and_of_xnnpack(tmp_path):
    """Three threads are the caller and two workers, of XNNPACK without the delegate and of the delegate alone."""
    graph = lce.Graph()
    source = graph.tensor((1, 64, 64, 64))
    content = graph.build([source], [graph.builtin("ADD", [source, source], (1, 64, 64, 64))])
    workers = {}
    for delegate in "01":
        path = tmp_path / f"{delegate}.tflite"
        path.write_bytes(model(512) if delegate == "1" else content)
        command = [sys.executable, "-c", COUNT_THREADS, path, delegate]
        workers[delegate] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert workers == {"0": 2, "1": 2}


def test_table_fits_a_terminal(record):
    console = Console(width=80, record=True, file=io.StringIO())
    latency = dict.fromkeys(record["latency_ms"], 1234.567)
    console.print(bench_table([record, {**record, "threads": 4, "latency_ms": latency, "size_bytes": 29_123_456}]))
    text = console.export_text()
    lines = text.splitlines()
    rows = [line for line in lines if "model.tflite" in line]
    assert len(rows) == 2 and "29.1 MB" in rows[1] and "1234.6" in rows[1] and "measured" in rows[0]
    assert all(word in text for word in ("median", "p99", "memory", "threads", "20 runs"))
