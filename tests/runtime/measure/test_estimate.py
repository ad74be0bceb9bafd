"""Estimates: against figures that others published, and against what is known to be impossible."""

from dataclasses import replace

import lce
import numpy as np
import pytest

from fsg import FsgError
from fsg.runtime.boards.cores import cores
from fsg.runtime.measure.estimate import PUBLISHED, PublishedBoard, estimate, estimate_range, fit_efficiency
from fsg.runtime.model.operators import read_operators

PI4 = PublishedBoard()


@pytest.fixture
def path(tmp_path):
    """A float convolution, a binary one with packed output, a binary one with float output, and a shortcut."""
    rng, graph = np.random.default_rng(0), lce.Graph()
    source = graph.tensor([1, 16, 16, 48])
    first = lce.Conv(rng.choice([-1, 1], (64, 3, 3, 48)), padding=0)
    second = lce.Conv(rng.choice([-1, 1], (40, 1, 1, 64)), stride=(2, 2))
    packed = graph.conv(graph.quantize(source), first, thresholds=np.zeros(64, np.int32), dtype=np.int32)
    ones = np.ones(40, np.float32)
    output = graph.conv(packed, second, ones, ones)
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.build([source], [graph.builtin("ADD", [output, output], [1, 8, 8, 40])]))
    return path


@pytest.mark.parametrize("figure", PUBLISHED, ids=lambda figure: f"{figure.network}-{figure.threads}")
def test_published_figures_are_foretold_without_the_network_in_question(figure):
    efficiency = fit_efficiency(other for other in PUBLISHED if other.network != figure.network)
    latency = estimate_range([figure.layer], PI4, threads=figure.threads, efficiency=efficiency)
    assert latency["expected"] == pytest.approx(figure.latency_ms, rel=0.25)
    assert latency["low"] < figure.latency_ms < latency["high"]


def test_the_layers_of_a_file_are_counted(path):
    layers = read_operators(path)
    assert [layer.kind for layer in layers] == ["LceQuantize", "LceBconv2d", "LceBconv2d", "ADD"]
    assert [layer.binary_macs for layer in layers] == [0, 16 * 16 * 64 * 9 * 48, 8 * 8 * 40 * 64, 0]
    assert [layer.shape for layer in layers] == [(16, 16, 2), (16, 16, 2), (8, 8, 40), (8, 8, 40)]
    assert layers[1].weight_bytes == 64 * 9 * 2 * 4 + 64 * 4 and layers[1].elements == 16 * 16 * (2 + 2)
    assert layers[3].elements == 3 * 8 * 8 * 40 and not any(layer.float_macs for layer in layers)


def test_an_estimate_says_that_it_is_one_and_what_it_stands_on(path):
    record = estimate(path, PI4, threads=2)
    assert (record["kind"], record["device"], record["threads"]) == ("estimated", "rpi4", 2)
    assert record["latency_ms"]["low"] < record["latency_ms"]["expected"] < record["latency_ms"]["high"]
    assert "cortex-a72, 1.5 GHz" in record["basis"] and "multiply-accumulates" in record["basis"]
    counted = estimate(path, PI4, threads=2, instructions=50_000_000)
    assert counted["latency_ms"]["low"] > record["latency_ms"]["low"] and "50.0 M instructions" in counted["basis"]
    # 2.2 instructions in a cycle of two cores at 1.5 GHz
    assert counted["latency_ms"]["low"] == pytest.approx(50e6 / (2.2 * 2 * 1.5e9) * 1e3, rel=0.01)
    # What llvm-mca says moves all but the best case.
    scheduled = estimate(path, PI4, threads=2, instructions=50_000_000, scheduled=(30e6, "by a model"))
    assert "30.0 M cycles, by a model, 1.5 GHz" in scheduled["basis"] and "instructions" not in scheduled["basis"]
    assert scheduled["latency_ms"]["low"] == counted["latency_ms"]["low"]
    assert scheduled["latency_ms"]["expected"] == pytest.approx(10 / fit_efficiency(), rel=0.01)
    least = estimate(path, PI4, threads=2, instructions=50_000_000, scheduled=(1.0, "by a model"))
    ideal = least["latency_ms"]["expected"] * fit_efficiency()  # no less than the multiply-accumulates take
    assert least["latency_ms"]["low"] == pytest.approx(ideal, rel=0.01) and ideal > 0.01


def test_threads_share_the_arithmetic_but_neither_memory_nor_cores_that_are_not_there():
    layer = PUBLISHED[0].layer
    one, four, eight = (estimate_range([layer], PI4, threads=count)["low"] for count in (1, 4, 8))
    memory = (layer.weight_bytes + 4 * layer.elements) / PI4.memory_gb_s / 1e6
    assert four - memory == pytest.approx((one - memory) / 4) and eight == four


def test_what_fits_the_cache_does_not_wait_for_memory():
    layer = PUBLISHED[0].layer
    size = layer.weight_bytes + 4 * layer.elements
    fits, too_small = (replace(PI4, l2_kb=size / 1024 + more) for more in (1, -1))
    slower = estimate_range([layer], too_small)["low"] - estimate_range([layer], fits)["low"]
    assert slower == pytest.approx(size / PI4.memory_gb_s / 1e6)


def test_another_core_than_that_of_the_figures_is_more_doubtful():
    def doubt(board):
        latency = estimate_range([PUBLISHED[0].layer], board)
        return latency["high"] / latency["low"]

    assert doubt(replace(PI4, core="cortex-a53")) == pytest.approx(doubt(PI4) ** 2) and doubt(PI4) > 1.25


def test_a_core_of_which_nothing_is_known_has_no_estimate(path):
    with pytest.raises(FsgError, match="no estimate for desk: it has the core magic-1; known are cortex-a53"):
        estimate(path, replace(PI4, name="desk", core="magic-1"))
    with pytest.raises(FsgError, match="no estimate for rpi4: it has an unknown core"):
        estimate(path, replace(PI4, core=""))
    for unknown in ("clock_ghz", "cores", "l2_kb", "memory_gb_s"):
        with pytest.raises(FsgError, match=f"its profile lacks one of .*{unknown}.*--devices"):
            estimate(path, replace(PI4, **{unknown: None}))
    peaks = [core.peaks for core in cores().values() if core.peaks]
    assert len(peaks) == 7 and all(peak.binary > peak.int8 >= peak.float32 for peak in peaks)
