"""The `fsg` command: what all its commands in commands/ have in common."""

import os
import sys

import click

from fsg import FsgError, __version__, installed, require_utf8, within_memory
from fsg.commands.bench import bench, devices
from fsg.commands.compare import bench_train, compare
from fsg.commands.completion import completion
from fsg.commands.evaluate import evaluate, report, summary
from fsg.commands.export import export
from fsg.commands.meta_train import meta_train
from fsg.commands.predict import predict
from fsg.commands.train import train
from fsg.terminal import print_anything, print_table
from fsg.training.launch import reports_failure


def main() -> None:
    """Runs the command; every foreseen problem is one line on stderr and exit code 2."""
    print_anything()
    try:
        with installed(), within_memory("take smaller images or a smaller model"):
            code = cli.main(prog_name="fsg", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        if reports_failure():
            click.echo("interrupted", err=True)
        code = 130
    except (click.ClickException, FsgError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if "--debug" in sys.argv:
            raise
        if reports_failure():
            click.echo(f"fsg: error: {' '.join(message.split())}", err=True)
        code = 2
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train binary neural networks in PyTorch, export them, run and measure them bitwise.

    \b
    fsg train                         train a network, into runs/NAME
    fsg export --format tflite        write a verified model file
    fsg bench                         measure it on this machine, or a board with --device and --host
    fsg predict runs/NAME cat.jpg     what it sees on pictures
    fsg report                        all about it on one HTML page
    fsg compare --methods ste,fsg     train with several methods and seeds, and compare
    """
    try:
        require_utf8(*sys.argv[1:], os.getcwd())
    except FileNotFoundError as error:
        raise FsgError("the current folder was removed: go to another") from error


@cli.command()
def env() -> None:
    """Versions, processor, and which native kernels are active."""
    from fsg.runtime.machine import environment, environment_table

    print_table(environment_table(environment()))


for command in (
    train,
    compare,
    bench_train,
    meta_train,
    export,
    bench,
    predict,
    report,
    evaluate,
    summary,
    devices,
    completion,
):
    cli.add_command(command)
