"""Measures models on boards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsg.runtime.boards.board import MODEL, Board, Facts, Progress
from fsg.runtime.boards.devices import Device
from fsg.runtime.measure.doubts import doubts
from fsg.runtime.measure.local import RUNS, WARMUP, latency_ms
from fsg.runtime.measure.records import Measured, as_record
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
        progress: is told what happens.

    Returns:
        Records of kind "measured", see `records.Measured`; warnings are what speaks against trusting the times.

    Raises:
        FsgError: something fails on the board, or on the way there.
    """
    board.prepare(device, progress)
    how = ["--runs", str(runs), "--warmup", str(warmup)]
    how += ["--cpus", ",".join(map(str, cpus))] if cpus else []
    how += ["--cooldown-ms", str(cooldown_ms)] if cooldown_ms else []
    how += ["--profile"] if profile else []
    first = before = board.facts()
    progress(f"{board.name}: {described(first)}")
    records = []
    for path in models:
        batch = images_at_once(path)
        progress(f"copying {path.name} to {board.name}")
        board.send(path, MODEL)
        for count in threads:
            progress(f"measuring {path.name} with {count} thread{'s' * (count > 1)} on {board.name}")
            answer = board.run(path, [*how, "--threads", str(count)], progress, pause_s=cooldown_ms / 1e3)
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
            records.append(as_record(found))
            before = after
        board.remove(MODEL)
    return records


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
