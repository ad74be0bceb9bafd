"""Tables for the terminal: one look for all of them."""

from collections.abc import Collection, Iterable, Sequence
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
