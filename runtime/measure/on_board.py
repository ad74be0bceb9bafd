"""Measures models on boards."""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fsg.runtime.boards.board import MODEL, Board, Facts, Progress
from fsg.runtime.boards.devices import Device
from fsg.runtime.measure.doubts import doubts
from fsg.runtime.measure.local import (
    ALONE_RUNS,
    ALONE_WARMUP,
    PILOT_RUNS,
    RUNS,
    WARMUP,
    images_per_s,
    latency_ms,
    runs_within,
)
from fsg.runtime.measure.records import Measured, as_record
from fsg.runtime.measure.stretches import named_ops
from fsg.runtime.model.tflite import images_at_once


def measure(
    board: Board,
    models: Sequence[Path],
    *,
    device: Device,
    threads: Sequence[int] = (1,),
    runs: int = RUNS,
    warmup: int = WARMUP,
    cpus: Sequence[int] | None = None,
    cooldown_ms: int = 0,
    profile: bool = False,
    seconds: float = 0,
    progress: Progress = lambda text: None,
) -> list[dict[str, Any]]:
    """Measures every model with every number of threads on a board.

    Args:
        board: within its `with` block.
        models: .tflite files.
        device: what the board is; its machine must be the board's.
        threads: numbers of threads, a record for each.
        runs: timed inferences for each record.
        warmup: untimed ones before them.
        cpus: cores to run on; None leaves that to the board.
        cooldown_ms: pause before each inference.
        profile: whether the records tell the time of each operator.
        seconds: how long to time inferences for each record, instead of `runs`; 0 for these.
        progress: is told what happens.

    Returns:
        Records of kind "measured", see `records.Measured`; warnings are what speaks against trusting the times.

    Raises:
        FsgError: something fails on the board, or on the way there.
    """
    board.prepare(device, progress)
    on_cpus = ["--cpus", ",".join(map(str, cpus))] if cpus else []
    how = ["--warmup", str(warmup), *on_cpus]
    how += ["--cooldown-ms", str(cooldown_ms)] if cooldown_ms else []
    how += ["--profile"] if profile else []
    first = before = board.facts()
    progress(f"{board.name}: {described(first)}")
    records = []
    for path in models:
        batch = images_at_once(path)
        progress(f"copying {path.name} to {board.name}")
        board.send(path, MODEL)
        measured = []
        for count in threads:
            progress(f"measuring {path.name} with {count} thread{'s' * (count > 1)} on {board.name}")
            on = [*on_cpus, "--threads", str(count)]
            if seconds:
                pilot = ["--runs", str(PILOT_RUNS), "--warmup", str(PILOT_RUNS), *on]
                one_us = statistics.median(board.run(path, pilot, progress)["times_us"])
                runs = runs_within(seconds, one_us / 1e6 + cooldown_ms / 1e3)
            words = ["--runs", str(runs), *how, "--threads", str(count)]
            answer = board.run(path, words, progress, pause_s=cooldown_ms / 1e3)
            after = board.facts()
            found = Measured(
                artefact=str(path),
                format="tflite",
                device=device.name,
                host=board.host,
                threads=count,
                runs=len(answer["times_us"]),
                warmup=warmup,
                cpus=list(cpus) if cpus else None,
                cooldown_ms=cooldown_ms,
                batch=batch,
                latency_ms=latency_ms([time / 1e3 / batch for time in answer["times_us"]]),
                images_per_s=images_per_s([time / 1e6 for time in answer["times_us"]], batch),
                seconds=seconds or None,
                first_run_ms=round(answer["first_us"] / 1e3, 4),
                size_bytes=path.stat().st_size,
                peak_rss_bytes=answer["peak_rss_bytes"],
                base_rss_bytes=answer["base_rss_bytes"],
                energy_mj=answer.get("energy_mj"),
                cpu=after.get("cpu") or board.machine,
                kernels=answer["kernels"],
                facts={"before": before, "after": after},
                warnings=doubts(before, after, device, load=first.get("load")),
                ops=answer["ops"] if profile else None,
            )
            measured.append((as_record(found), answer.get("partitions", [])))
            before = after
        for record, owners in measured if profile else []:
            progress(f"measuring operators of {path.name} on {board.name}")
            clock = partial(_alone, board, [*on_cpus, "--threads", str(record["threads"])])
            record["ops"] = named_ops(path, record["ops"], owners, clock)
        records += [record for record, _ in measured]
        board.remove(MODEL)
    return records


def _alone(board: Board, how: Sequence[str], path: Path) -> dict[str, float]:
    """Microseconds, "us", that a model of one operator takes on a board in LiteRT and XNNPACK alone."""
    board.send(path, MODEL)
    more = ["--runs", str(ALONE_RUNS), "--warmup", str(ALONE_WARMUP), "--fuse", "0"]
    return {"us": statistics.median(board.run(path, [*how, *more], lambda text: None)["times_us"])}


def described(facts: Facts) -> str:
    """A board's facts for people, in a line; what it does not say is left out."""
    memory = facts.get("memory_free_bytes")
    words = (
        ("%s", facts.get("model")),
        ("%s", facts.get("cpu")),
        ("%s cores", facts.get("cores")),
        ("up to %s MHz", facts.get("max_clock_mhz")),
        ("governor %s", facts.get("governor")),
        ("%s °C", facts.get("temperature_c")),
        ("load %s", facts.get("load")),
        ("%s MB free", None if memory is None else memory // 10**6),
        ("glibc %s", facts.get("glibc")),
    )
    return ", ".join(text % word for text, word in words if word is not None)
