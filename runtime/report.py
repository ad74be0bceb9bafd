"""Bench records as a table for people."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group


def bench_table(records: Iterable[dict[str, Any]]) -> "Group":
    """One row for each record of `fsg.runtime.benchmark.benchmark`, in their order; fits 80 columns."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    records = list(records)
    known = [record for record in records if "accuracy" in record]
    machines = ", ".join(dict.fromkeys(_machine(record) for record in records))
    runs = " or ".join(str(n) for n in dict.fromkeys(record["runs"] for record in records))
    notes = [f"median, p90, p99: milliseconds of {runs} runs; memory: peak of the process"]
    if known:
        sets = ", ".join(dict.fromkeys(record["dataset"] for record in known))
        notes.append(f"smaller: than the float32 weights; accuracy: on the test images of {sets}")
    if any(record["format"] == "onnx" for record in records):
        notes.append(".onnx: ONNX Runtime has no bitwise kernels and computes in float32")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    columns = ["file", "threads", "median", "p90", "p99", "size", "memory"]
    for column in (*columns, *(["smaller", "accuracy"] if known else []), "kind"):
        is_text = column in ("file", "kind")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text)
    for record in records:
        latency = record["latency_ms"]
        cells = [
            Path(record["artefact"]).name,
            str(record["threads"]),
            *(_milliseconds(latency[name]) for name in ("p50", "p90", "p99")),
            *(_bytes(record[name]) for name in ("size_bytes", "peak_rss_bytes")),
        ]
        if "accuracy" in record:
            smaller = record["float_size_bytes"] / record["size_bytes"]
            cells += [f"{smaller:.1f}x", f"{record['accuracy']:.2%}"]
        elif known:
            cells += ["", ""]
        table.add_row(*cells, record["kind"])
    title = f"Time for one image on {machines}"
    return Group(Text(title, "bold"), table, Text("\n".join(notes), "dim"))


def _machine(record: dict[str, Any]) -> str:
    device = "this machine" if record["device"] == "local" else record["device"]
    return f"{device} ({record['cpu']})"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _bytes(count: float) -> str:
    if count < 1000:
        return f"{count:.0f} B"
    count /= 1000
    if count < 1000:
        return f"{count:.1f} kB"
    return f"{count / 1000:.1f} MB"
