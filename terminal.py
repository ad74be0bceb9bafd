"""Where the `fsg` command writes to: consoles, tables, and files of results."""

import io
import sys
from pathlib import Path
from typing import Any

import click

from fsg import replacing


def print_anything() -> None:
    """From now on, what the terminal's encoding has no sign for is printed as an escape, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def make_console(*, stderr: bool = True) -> Any:
    """A rich console; progress goes to stderr, so that stdout holds only results."""
    from rich.console import Console

    return Console(stderr=stderr)


def print_table(table: Any) -> None:
    """Prints a rich table, wide enough for its content where the output is no terminal; brackets are no markup."""
    from rich.console import Console

    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(width=max(140, console.width), markup=False)
    console.print(table)


def write_text(text: str, path: str | None) -> None:
    """Writes a text to a file, or prints it where the path is "-"; without a path, nothing."""
    if path == "-":
        click.echo(text, nl=False)
    elif path:
        with replacing(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
