"""`fsg export`."""

from pathlib import Path
from typing import Any

import click

from fsg import shell_command
from fsg.commands.common import newest
from fsg.export.options import export_options, is_packed
from fsg.terminal import make_console, print_table
from fsg.training.folder import checked_run, newest_run
from fsg.training.options import PATH


@click.command()
@click.argument("source", required=False, type=PATH, metavar="[RUN|FILE.fsg]")
@export_options
def export(source: Path | None, formats: tuple[str, ...], out: Path | None, **how: Any) -> None:
    """Write a trained model as .tflite, .onnx, .fsg or .c.

    RUN is a run folder; the newest under ./runs if left away. Each file is compared with PyTorch on real test images
    before it takes its place. The hypernetworks stay behind. A packed-sign FILE.fsg needs neither its run nor PyTorch:
    what is written is compared with that file, on the test images of --dataset or on random ones.
    """
    source = source or newest(newest_run)
    if not is_packed(source):
        checked_run(source)
    with make_console().status(f"reading {source}") as status:
        from fsg.export.source import export_any
        from fsg.export.table import export_table

        report = export_any(source, formats, out, on_step=status.update, **how)
    print_table(export_table(report))
    click.echo(f"next: {shell_command('bench', *(artefact['path'] for artefact in report['artefacts']))}")
