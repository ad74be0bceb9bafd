"""BinaryGraph -> .tflite with Larq Compute Engine's operators, written directly or through LCE's own converter."""

from collections.abc import Collection
from importlib.util import find_spec

from fsg import FsgError
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.formats.tflite.lower import lower
from fsg.export.formats.tflite.process import converter
from fsg.export.graph import BinaryConv, BinaryGraph, Conv, Dense
from fsg.runtime.model.tflite import op_counts

PACKAGES = ("larq_compute_engine", "tensorflow")


def prepare(formats: Collection[str], writer: str = "auto") -> None:
    """Starts what LCE's converter needs, which takes a while, if it may be used for the formats to come.

    Errors: FsgError where it is asked for and packages are missing.
    """
    if "tflite" in formats and (writer == "lce" or (writer == "auto" and lce_is_here())):
        converter(packages=PACKAGES)


def lce_is_here() -> bool:
    """Whether LCE's converter and TensorFlow are installed."""
    return all(find_spec(package) for package in PACKAGES)


def to_tflite(
    graph: BinaryGraph, *, writer: str = "auto", batch: int = 1, integer_ends: bool = False
) -> tuple[bytes, str]:
    """Converts a graph for a batch, input [batch, H, W, C], output [batch, classes]; the file, and who wrote it.

    `writer` "direct" needs no TensorFlow; "lce" is Larq's converter, for a batch of one; "auto" is that where it is
    installed and knows all that is in the network, else "direct". Errors: FsgError where a layer has no counterpart,
    where the packages for it are missing, and where the converter did not make of the graph exactly the operators that
    it should.
    """
    if writer == "lce" and batch != 1:
        raise FsgError(f"LCE's converter writes .tflite files for one image, not {batch}: --writer direct")
    if writer == "direct" or batch != 1 or (writer == "auto" and not lce_is_here()):
        return to_tflite_direct(graph, batch, integer_ends=integer_ends), "direct"
    try:
        lowered = lower(graph)
        content = converter(packages=PACKAGES).convert("lce", lowered)
        check_operators(lowered, op_counts(content))
    except FsgError as error:
        if writer == "lce":
            raise FsgError(f"{error}; --writer direct knows more") from error
        return to_tflite_direct(graph, batch), "direct"
    return content, "lce"


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
