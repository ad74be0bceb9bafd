"""Bench records as a table for people, as CSV and as Markdown: the same rows of the same records."""

import csv
import io
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

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def bench_table(records: Iterable[Record]) -> "Group":
    """One row for each record, in their order, then the profiles; fits 80 columns where all are of one machine."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    records = list(records)
    headings, cells = rows(records)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        is_text = heading in LEFT
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading != "file", overflow="fold")
    for row in cells:
        table.add_row(*row)
    parts: list[Any] = [Text(title(records), "bold"), table, Text("\n".join(notes(records)), "dim")]
    parts += [Text(f"warning: {warning}", "yellow") for warning in warnings(records)]
    for record in records:
        if record.get("ops"):
            parts += ["", Text(profile_title(record), "bold"), profile_table(record)]
            parts.append(Text(profile_note(record), "dim"))
    return Group(*parts)


def profile_table(record: Record) -> "Table":
    """The operators of a profiled record in the order in which they run."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    headings, cells = profile_rows(record)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=heading != "operator")
    for row in cells:
        table.add_row(*row)
    return table


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
