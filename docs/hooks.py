"""For mkdocs: the help of commands as a terminal shows it, with the headings of settings and the lines of examples."""

import inspect
from collections.abc import Iterator

import click
from mkdocs_click import _docs

WIDTH = 100


def description(ctx: click.Context, remove_ascii_art: bool = False) -> Iterator[str]:
    """The text of a command in Markdown; what click must not wrap, after a line of \\b, becomes a block."""
    for paragraph in inspect.cleandoc(ctx.command.help or "").split("\n\n"):
        first, *lines = paragraph.splitlines()
        yield from ["```text", *lines, "```"] if first == "\b" else [first, *lines]
        yield ""


def options(ctx: click.Context, show_hidden: bool = False) -> Iterator[str]:
    """A block for every section of a command's options."""
    formatter = click.HelpFormatter(width=WIDTH)
    of_group = isinstance(ctx.command, click.Group)
    (click.Command.format_options if of_group else type(ctx.command).format_options)(ctx.command, ctx, formatter)
    for section in formatter.getvalue().strip("\n").split("\n\n"):
        title, *lines = section.splitlines()
        yield from (f"**{title}**", "", "```text", *lines, "```", "")
    if ctx.command.epilog:
        lines = [line for line in inspect.cleandoc(ctx.command.epilog).splitlines() if line != "\b"]
        yield from ("```text", *lines, "```", "")


_docs._make_description = description
_docs._make_plain_options = options
