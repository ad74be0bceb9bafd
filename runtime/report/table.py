"""Bench records as a table for people, as CSV and as Markdown: the same rows of the same records."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fsg.runtime.report.view import (
    LEFT,
    Record,
    flatten,
    notes,
    profile_note,
    profile_rows,
    profile_title,
    rows,
    title,
    warnings,
)
from fsg.runtime.tables import table, titled

if TYPE_CHECKING:
    from rich.console import Group


def bench_table(records: Iterable[Record]) -> "Group":
    """One row for each record, in their order, then the profiles; fits 80 columns where all are of one machine."""
    from rich.console import Group
    from rich.text import Text

    records = list(records)
    made = table(*rows(records), left=LEFT, wrap=("file",), gap=1)
    parts: list[Any] = [titled(title(records), made, notes(records))]
    parts += [Text(f"warning: {warning}", "yellow") for warning in warnings(records)]
    for record in records:
        if record.get("ops"):
            profile = table(*profile_rows(record), left=LEFT, wrap=("operator",), gap=1)
            parts += ["", titled(profile_title(record), profile, [profile_note(record)])]
    return Group(*parts)


def forms(records: Sequence[Record]) -> dict[str, str]:
    """The records as texts for files: "json", "csv" and "markdown"."""
    return {"json": json.dumps(records, indent=2) + "\n", "csv": csv_text(records), "markdown": markdown(records)}


def markdown(records: Sequence[Record]) -> str:
    """The table of `rows` in Markdown, with the title and the notes."""
    headings, cells = rows(records)
    lines = [f"**{title(records)}**", "", _markdown_row(headings)]
    lines.append(_markdown_row("---" if heading in LEFT else "---:" for heading in headings))
    lines += map(_markdown_row, cells)
    lines += ["", *(f"{note}  " for note in notes(records))]
    lines += [f"**warning**: {warning}  " for warning in warnings(records)]
    for record in records:
        if record.get("ops"):
            headings, cells = profile_rows(record)
            lines += ["", f"**{profile_title(record)}**", "", _markdown_row(headings)]
            lines.append(_markdown_row("---" if heading in LEFT else "---:" for heading in headings))
            lines += [*map(_markdown_row, cells), "", profile_note(record)]
    return "\n".join(lines).rstrip() + "\n"


def csv_text(records: Sequence[Record]) -> str:
    """One line for each record with every figure it has, unrounded; nested ones as "latency_ms.p50".

    The operators of a profile are lists and stay in the JSON.
    """
    flat = [flatten(record) for record in records]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
