"""The options of `fsg export`, for click."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

FORMATS = ("tflite", "onnx", "packed", "c")
CHOICES = {
    "writer": ("auto", "direct", "lce"),
    "verify": ("logits", "deep"),
    "int8": ("weights", "layers"),
    "io": ("float", "int8"),
    "input": ("float", "uint8"),
}
F = TypeVar("F", bound=Callable[..., Any])


MAX_BATCH = 1000  # as many images as a file is compared with


class Batch(click.ParamType):
    """A number of images from 1 to MAX_BATCH, or "free", which is None."""

    name = "N|free"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "free":
            return None
        if not (str(value).isdecimal() and 1 <= int(value[:9]) <= MAX_BATCH):
            self.fail(f"{value!r} is neither a number of images from 1 to {MAX_BATCH} nor free", param, ctx)
        return int(value)


def is_packed(source: Path) -> bool:
    """Whether what is to be exported is a packed-sign file, not the folder of a run."""
    return source.suffix.lower() == ".fsg" and not source.is_dir()


def export_options(command: F) -> F:
    """Which formats to write, how, and where."""
    option, folder = click.option, click.Path(path_type=Path)
    for decorate in (
        option("--data-dir", help="Folder where the data set is now."),
        option("--dataset", help="The data of the run elsewhere, or any for a FILE: npz:PATH, folder:PATH or a name."),
        option("--opset", type=int, help="Version of ONNX's operators.  [default: the oldest that has them all]"),
        option(
            "--batch",
            type=Batch(),
            default="1",
            show_default=True,
            metavar="N|free",
            help="Images that a file takes at once; free: any number, of .onnx files.",
        ),
        option(
            "--writer",
            type=click.Choice(CHOICES["writer"]),
            default="auto",
            show_default=True,
            help="Of .tflite files: fsg's own, or LCE's converter; auto takes that for a RUN if it is there and fit.",
        ),
        option(
            "--verify",
            type=click.Choice(CHOICES["verify"]),
            default="logits",
            show_default=True,
            help="What is compared: the results, or every value within the network too.",
        ),
        option(
            "--int8",
            type=click.Choice(CHOICES["int8"]),
            is_flag=False,
            flag_value="layers",
            help="Float layers in integers of 8 bits: their weights alone, or what they compute with, too (the bare"
            " --int8), on ranges chosen by training images.",
        ),
        option(
            "--io",
            type=click.Choice(CHOICES["io"]),
            default="float",
            show_default=True,
            help="What .tflite and .onnx files with --int8 layers take and give: their metadata have the grids.",
        ),
        option(
            "--input",
            type=click.Choice(CHOICES["input"]),
            default="float",
            show_default=True,
            help="What .tflite, .onnx and .c files take: normalised images, or raw pixels that they normalise.",
        ),
        option("--best", is_flag=True, help="The weights of the epoch with the highest test accuracy."),
        option("--out", type=folder, help="Folder to write into.  [default: RUN/export, or that of FILE]"),
        option(
            "--format",
            "formats",
            type=click.Choice(FORMATS),
            multiple=True,
            default=["tflite"],
            show_default=True,
            help="May be repeated.",
        ),
    ):
        command = decorate(command)
    return command
