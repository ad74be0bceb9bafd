"""Measures latency and memory of a model, each measurement in a process of its own.

A fresh process is what makes the peak memory the model's own and a crash survivable:
`python -m fsg.runtime.measure.local FILE HOW` prints one record as JSON; HOW is what `measure` takes, as JSON.
"""

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg import FsgError, python
from fsg.runtime.library import active_kernels
from fsg.runtime.machine import cpu_name, peak_rss, stay_on
from fsg.runtime.measure.records import Measured, as_record
from fsg.runtime.model.files import exported_facts, model_format
from fsg.runtime.model.metadata import sizes_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsg.runtime.model.session import Session

RUNS = 50
MAX_THREADS = 256  # of the native library
PILOT_RUNS, LEAST_RUNS, MOST_RUNS = 5, 10, 200_000  # where a duration is given
WARMUP = 10  # enough for caches and the clock of a small board to settle
ALONE_RUNS, ALONE_WARMUP = 21, 4  # of each operator on its own, for a profile


def benchmark(
    path: str | Path,
    *,
    threads: int = 1,
    runs: int = RUNS,
    warmup: int = WARMUP,
    cpus: Sequence[int] | None = None,
    cooldown_ms: float = 0,
    profile: bool = False,
    seconds: float = 0,
    device: str = "local",
) -> dict[str, Any]:
    """Times `runs` inferences of random values, after `warmup` untimed ones, in a child process.

    The model may take anything, such as int8, or several inputs; what is not fixed of their sizes is 1.

    Args:
        path: a model file.
        threads: of the interpreter and of the binary kernels.
        runs: timed inferences.
        warmup: untimed ones before them.
        cpus: cores to stay on; None leaves that to the system.
        cooldown_ms: pause before each timed inference.
        profile: whether the record of a .tflite file tells the time of each operator.
        seconds: how long to time inferences, instead of `runs`; 0 for these.
        device: what the record calls this machine.

    Returns:
        A record of kind "measured" (see `records.Measured`), with accuracy, dataset and float_size_bytes if the
        export's report is beside the file.

    Raises:
        FsgError: the model does not open or run, or the process dies.
    """
    model_format(path)
    for name, value, least in (("threads", threads, 1), ("runs", runs, 1), ("warmup", warmup, 0)):
        if not isinstance(value, int) or value < least:
            raise FsgError(f"{name} is {value!r}; give at least {least}")
    if threads > MAX_THREADS:
        raise FsgError(f"threads is {threads}; give at most {MAX_THREADS}")
    how: dict[str, Any] = {"threads": threads, "runs": runs, "warmup": warmup, "cpus": list(cpus) if cpus else None}
    how |= {"cooldown_ms": cooldown_ms, "profile": profile, "seconds": seconds}
    child = subprocess.run(
        python("fsg.runtime.measure.local", str(path), json.dumps(how)), capture_output=True, text=True, check=False
    )
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise FsgError(f"{path}: the benchmark process was killed by {name}; is there enough memory?")
    lines = (child.stderr if child.returncode else child.stdout).strip().splitlines() or ["no output"]
    if child.returncode:
        raise FsgError(lines[-1] if child.returncode == 2 else f"{path}: the benchmark failed: {lines[-1]}")
    record: dict[str, Any] = json.loads(lines[-1])
    return {**record, "device": device, **exported_facts(Path(path))}


def measure(
    path: Path,
    *,
    threads: int,
    runs: int,
    warmup: int,
    cpus: list[int] | None = None,
    cooldown_ms: float = 0,
    profile: bool = False,
    seconds: float = 0,
) -> dict[str, Any]:
    """The record of `benchmark`, measured in this very process."""
    import numpy as np

    from fsg.runtime.measure.profile import Profile
    from fsg.runtime.measure.stretches import named_ops
    from fsg.runtime.model.session import TfliteSession, open_model

    if cpus:
        stay_on(cpus)
    base = peak_rss()
    session = open_model(path, num_threads=threads, any_inputs=True)
    session.fill()
    start = time.perf_counter_ns()
    session.invoke()
    first = time.perf_counter_ns() - start
    warm = [_microseconds(session) for _ in range(max(warmup, PILOT_RUNS if seconds else 0))]
    runs = runs_within(seconds, statistics.median(warm[-PILOT_RUNS:]) / 1e6 + cooldown_ms / 1e3) if seconds else runs
    watched = Profile(session) if profile and isinstance(session, TfliteSession) else None
    times = np.empty(runs)
    with watched or nullcontext():
        for i in range(runs):
            time.sleep(cooldown_ms / 1e3)
            begin = time.monotonic()
            session.invoke()
            end = time.monotonic()
            times[i] = end - begin
            if watched:
                watched.note(begin, end)
    peak = peak_rss()

    def alone(file: Path) -> dict[str, float]:
        return {"us": _median_us(file, threads=threads)}

    return as_record(
        Measured(
            artefact=str(path),
            format=session.format,
            device="local",
            threads=threads,
            runs=runs,
            warmup=warmup,
            cpus=cpus,
            cooldown_ms=cooldown_ms,
            batch=session.batch,
            latency_ms=latency_ms(times * 1e3 / session.batch),
            images_per_s=images_per_s(times.tolist(), session.batch),
            seconds=seconds or None,
            first_run_ms=round(first / 1e6, 4),
            size_bytes=sizes_of(path)["size_bytes"],
            peak_rss_bytes=peak,
            base_rss_bytes=base,
            cpu=cpu_name(),
            kernels={"onnx": "onnxruntime", "packed": "numpy", "c": "C"}.get(session.format) or active_kernels(),
            ops=named_ops(path, watched.ops(), watched.owners(), alone) if watched else None,
        )
    )


def _median_us(path: Path, *, threads: int) -> float:
    """Microseconds that a model of one operator takes in LiteRT and XNNPACK alone."""
    from fsg.runtime.model.session import open_model

    session = open_model(path, num_threads=threads, delegate=False, any_inputs=True)
    session.fill()
    times = [_microseconds(session) for _ in range(ALONE_WARMUP + ALONE_RUNS)]
    return statistics.median(times[ALONE_WARMUP:])


def _microseconds(session: "Session") -> float:
    """What an inference takes."""
    begin = time.perf_counter_ns()
    session.invoke()
    return (time.perf_counter_ns() - begin) / 1e3


def runs_within(seconds: float, one_s: float) -> int:
    """How many inferences of `one_s` seconds each are timed in so many seconds: a few in any case.

    Errors: FsgError for seconds that are no length of time.
    """
    if not 0 < seconds < float("inf"):
        raise FsgError(f"seconds is {seconds:g}; give a number above 0")
    return max(LEAST_RUNS, min(MOST_RUNS, round(seconds / one_s)))


def images_per_s(times: Sequence[float], batch: int) -> float:
    """Throughput of inferences one behind the other, which took these seconds."""
    return float(f"{batch / statistics.fmean(times):.5g}")


def latency_ms(times: "npt.ArrayLike") -> dict[str, float]:
    """Minimum, percentiles, mean and standard deviation of times in milliseconds."""
    import numpy as np

    times = np.asarray(times)
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    figures = {"min": times.min(), "p50": p50, "p90": p90, "p99": p99, "mean": times.mean(), "std": times.std()}
    return {name: round(float(value), 4) for name, value in figures.items()}


def _main() -> int:
    path, how = sys.argv[1:]
    try:
        record = measure(Path(path), **json.loads(how))
    except FsgError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
