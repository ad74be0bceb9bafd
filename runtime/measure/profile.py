"""Where the time of an inference goes in this process: as native/program/main.cc finds it on boards."""

import ctypes
from itertools import pairwise
from typing import Any

from fsg.runtime.library import native_function
from fsg.runtime.model.session import TfliteSession

CAPACITY = 65536  # operators of one inference
REST = "LiteRT and XNNPACK"
SHORTEST_GAP_US = 1.5  # within a partition operator follows operator at once


class Event(ctypes.Structure):
    """One run of an operator of the delegate, see native/profile.h."""

    _fields_ = (
        ("name", ctypes.c_char * 80),
        ("begin", ctypes.c_double),  # seconds of the monotonic clock
        ("end", ctypes.c_double),
        ("macs", ctypes.c_int64),
        ("partition", ctypes.c_int64),
        ("op", ctypes.c_void_p),
    )


class Profile:
    """The delegate's operators and, before, between and after its partitions, LiteRT and XNNPACK.

    Notes what happens in the inferences of its `with` block, in all of which operators and stretches are the same.
    """

    def __init__(self, session: TfliteSession) -> None:
        self._start, self._count = native_function("fsg_profile"), native_function("fsg_profiled")
        self._delegate = ctypes.c_void_p(session.delegate_pointer)
        self._events = (Event * CAPACITY)()
        self._marks: list[list[float]] = []

    def __enter__(self) -> "Profile":
        self._start(self._delegate, self._events, CAPACITY)
        return self

    def __exit__(self, *error: object) -> None:
        self._start(self._delegate, None, 0)

    def note(self, begin: float, end: float) -> None:
        """Keeps the inference that just ran, from `begin` to `end` in seconds of the monotonic clock."""
        noted = [(event.begin, event.end) for event in self._events[: self._count(self._delegate)]]
        self._marks.append([begin, *(mark for pair in noted for mark in pair), end])

    def ops(self) -> list[dict[str, Any]]:
        """In the order in which they run, {name, kind: "fsg" or "rest", us, binary_macs, partition}; us are medians.

        What is no partition's has none.
        """
        import numpy as np

        # Between two marks lies a stretch of LiteRT's, then an operator, and so on.
        runs = [[1e6 * (after - before) for before, after in pairwise(run)] for run in self._marks]
        ops = []
        for i, us in enumerate(np.median(runs, axis=0).tolist()):
            if i % 2:
                event = self._events[i // 2]
                ops.append({"name": event.name.decode(), "kind": "fsg", "us": us, "binary_macs": event.macs})
                ops[-1]["partition"] = event.partition
            elif us > SHORTEST_GAP_US:
                ops.append({"name": REST, "kind": "rest", "us": us, "binary_macs": 0})
        return ops

    def owners(self) -> list[int]:
        """The partition that runs each operator of the file, -1 for LiteRT, which runs those behind the end too."""
        partitions = native_function("fsg_partitions")
        partitions.restype = ctypes.POINTER(ctypes.c_int)
        count = ctypes.c_int()
        found = partitions(self._delegate, ctypes.byref(count))
        return [found[i] for i in range(count.value)]
