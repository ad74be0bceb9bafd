"""Tables for the terminal: one look for all of them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence["str | Text"]],
    *,
    left: Collection[str],
    wrap: Collection[str] = (),
    gap: int = 2,
) -> "Table":
    """Columns under their headings, without lines. Brackets in cells are no markup.

    Args:
        left: headings of columns of text; the others are of numbers, and stand at the right.
        wrap: headings of columns that may break into several lines where the terminal is narrow.
        gap: spaces between columns.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for heading in headings:
        is_text, wraps = heading in left, heading in wrap
        made.add_column(heading, justify="left" if is_text else "right", no_wrap=not wraps, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def facts(rows: Iterable[tuple[str, str]]) -> "Table":
    """Two columns without headings: what, and its value."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=False, pad_edge=False)
    for what, value in rows:
        made.add_row(what, Text(value))
    return made


def titled(title: str, made: "Table", notes: Iterable[str]) -> "Group":
    """A table under its title, and below it what people need to know to read it."""
    from rich.console import Group
    from rich.text import Text

    return Group(*([Text(title, "bold")] if title else []), made, Text("\n".join(notes), "dim"))


@dataclass(frozen=True)
class LayerSummary:
    """One layer for a batch of one: parameter counts, bytes of its weights when packed, multiply-accumulates (MACs).

    MACs are binary where both the weights and the input are -1 or +1, so that XNOR and popcount can do them. `role`
    says why `binarize` left a layer float, else it is empty.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    binary_parameters: int
    float_parameters: int
    memory_bytes: int
    binary_macs: int
    float_macs: int
    role: str = ""


def summary_table(rows: list[LayerSummary]) -> "Table":
    """One line per layer and the totals; memory in bytes, MACs in thousands; why `binarize` left layers float."""
    figure_names = ("output", "1-bit params", "32-bit params", "memory B", "binary kMAC", "float kMAC")
    headings = ["layer", "type", *figure_names, *(["float because"] if any(row.role for row in rows) else [])]

    def figures(rows: list[LayerSummary]) -> list[str]:
        counts = ("binary_parameters", "float_parameters", "memory_bytes")
        macs = ("binary_macs", "float_macs")
        return [
            *(f"{sum(getattr(row, name) for row in rows):,}" for name in counts),
            *(f"{sum(getattr(row, name) for row in rows) / 1e3:,.1f}" for name in macs),
        ]

    cells = [[row.name, row.type, "x".join(map(str, row.output_shape)), *figures([row]), row.role] for row in rows]
    made = table(
        headings, (row[: len(headings)] for row in cells), left=("layer", "type", "float because"), wrap=("type",)
    )
    made.add_section()
    made.add_row("total", "", "", *figures(rows), style="bold")
    return made
