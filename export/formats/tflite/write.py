"""BinaryGraph -> .tflite with Larq Compute Engine's operators, written directly or through LCE's own converter."""

from collections.abc import Collection
from typing import Literal

from fsg import FsgError
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.formats.tflite.lower import lower
from fsg.export.formats.tflite.process import converter
from fsg.export.graph import BinaryConv, BinaryGraph, Conv, Dense
from fsg.runtime.model.tflite import op_counts

PACKAGES = ("larq_compute_engine", "tensorflow")


def prepare(formats: Collection[str]) -> None:
    """Starts what `to_tflite` needs, which takes a while, if it is among the formats to come.

    Errors: FsgError where packages are missing.
    """
    if "tflite" in formats:
        converter(packages=PACKAGES)


def to_tflite(graph: BinaryGraph, *, writer: Literal["direct", "lce"] = "lce", batch: int = 1) -> bytes:
    """Converts a graph for a batch; input [batch, H, W, C], output [batch, classes].

    `writer` "direct" needs no TensorFlow; LCE's converter takes a batch of one alone.

    Errors: FsgError where a layer has no counterpart, where the packages for it are missing, and where the converter
    did not make of the graph exactly the operators that it should.
    """
    if writer == "direct":
        return to_tflite_direct(graph, batch)
    if batch != 1:
        raise FsgError(f"LCE's converter writes .tflite files for one image, not {batch}: use the direct writer")
    graph = lower(graph)
    content = converter(packages=PACKAGES).convert("lce", graph)
    check_operators(graph, op_counts(content))
    return content


def check_operators(graph: BinaryGraph, ops: dict[str, int]) -> None:
    """Raises FsgError unless each binary convolution became LceBconv2d and each float layer stayed one float layer."""
    for found, wanted, what in (
        (ops.get("LceBconv2d", 0), graph.count(BinaryConv), "binary convolutions"),
        (ops.get("CONV_2D", 0) + ops.get("DEPTHWISE_CONV_2D", 0), graph.count(Conv), "float convolutions"),
        (ops.get("FULLY_CONNECTED", 0), graph.count(Dense), "float dense layers"),
    ):
        if found != wanted:
            raise FsgError(
                f"LCE's converter wrote {found} {what} where the model has {wanted}; nothing was exported."
                " Please report it with the model"
            )
