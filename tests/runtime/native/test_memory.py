"""What opening and closing costs in the long run."""

import gc
from pathlib import Path

import lce
import numpy as np
import pytest
from lce import Conv

RNG = np.random.default_rng(5)


def network() -> bytes:
    """Two residual blocks, so that every kind of memory is taken: plans, scratch, constants, values in between."""
    graph = lce.Graph()
    value = source = graph.tensor((1, 20, 20, 48))
    for _ in range(2):
        constants = RNG.standard_normal((2, 48)).astype(np.float32)
        conv = graph.conv(graph.quantize(value), Conv(RNG.choice([-1, 1], (48, 3, 3, 48)), padding=0), *constants)
        value = graph.builtin("ADD", [conv, value], (1, 20, 20, 48), fusedActivationFunction=0)
    return graph.build([source], [value])


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.parametrize("fuse", ["0", "1"])
def test_a_thousand_interpreters_leave_nothing_behind(fuse):
    model = network()
    image = RNG.standard_normal((1, 20, 20, 48)).astype(np.float32)

    def open_run_close(times: int) -> None:
        for _ in range(times):
            lce.run(model, image, fuse=fuse, num_threads="2")

    open_run_close(200)  # the allocator's own pools grow at first
    before = resident_bytes()
    open_run_close(1000)
    assert resident_bytes() - before < 1 << 20  # 1 kB each
