"""Bench records as a table for people."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("file", "format", "threads", "median", "p90", "p99", "best", "size", "memory", "kind")
_CAPTION = "median, p90, p99, best: milliseconds of {} runs; memory: peak of the whole process"


def bench_table(records: Iterable[dict[str, Any]]) -> "Table":
    """One row for each record of `fsg.runtime.benchmark.benchmark`, in their order; fits 80 columns."""
    from rich.table import Table

    records = list(records)
    devices = ", ".join(dict.fromkeys(record["device"] for record in records))
    runs = " or ".join(str(n) for n in dict.fromkeys(record["runs"] for record in records))
    table = Table(
        title=f"Time for one image on {devices}",
        caption=_CAPTION.format(runs),
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in _COLUMNS:
        is_text = column in ("file", "format", "kind")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text)
    for record in records:
        latency = record["latency_ms"]
        table.add_row(
            Path(record["artefact"]).name,
            record["format"],
            str(record["threads"]),
            *(_milliseconds(latency[name]) for name in ("p50", "p90", "p99", "min")),
            *(_bytes(record[name]) for name in ("size_bytes", "peak_rss_bytes")),
            record["kind"],
        )
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _bytes(count: float) -> str:
    if count < 1000:
        return f"{count:.0f} B"
    count /= 1000
    if count < 1000:
        return f"{count:.1f} kB"
    return f"{count / 1000:.1f} MB"
