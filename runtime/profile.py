"""Where the time of an inference goes in this process: as native/program/main.cc finds it on boards."""

import ctypes
import time
from itertools import pairwise
from typing import Any

from fsg.runtime import native_function
from fsg.runtime.session import TfliteSession

RUNS = 20
CAPACITY = 65536  # operators of one inference
SHORTEST_GAP_US = 1.5  # within a partition operator follows operator at once


class Event(ctypes.Structure):
    """One run of an operator of the delegate, see native/profile.h."""

    _fields_ = (
        ("name", ctypes.c_char * 80),
        ("begin", ctypes.c_double),  # seconds of the monotonic clock
        ("end", ctypes.c_double),
        ("macs", ctypes.c_int64),
    )


def profile(session: TfliteSession, runs: int = RUNS) -> list[dict[str, Any]]:
    """The delegate's operators and, before, between and after its partitions, LiteRT and XNNPACK.

    Returns:
        In the order in which they run, {name, kind: "fsg" or "rest", us, binary_macs}; us are medians of `runs` runs,
        in which operators and stretches are the same.
    """
    import numpy as np

    start, count = native_function("fsg_profile"), native_function("fsg_profiled")
    delegate = ctypes.c_void_p(session.delegate_pointer)
    events = (Event * CAPACITY)()
    start(delegate, events, CAPACITY)
    try:
        marks = []
        for _ in range(runs):
            begin = time.monotonic()
            session.invoke()
            end = time.monotonic()
            noted = [(event.begin, event.end) for event in events[: count(delegate)]]
            marks.append([begin, *(mark for pair in noted for mark in pair), end])
    finally:
        start(delegate, None, 0)
    # Between two marks lies a stretch of LiteRT's, then an operator, and so on.
    stretches = np.median([[1e6 * (after - before) for before, after in pairwise(run)] for run in marks], axis=0)
    ops = []
    for i, us in enumerate(stretches.tolist()):
        if i % 2:
            event = events[i // 2]
            ops.append({"name": event.name.decode(), "kind": "fsg", "us": us, "binary_macs": event.macs})
        elif us > SHORTEST_GAP_US:
            ops.append({"name": "LiteRT and XNNPACK", "kind": "rest", "us": us, "binary_macs": 0})
    return ops
