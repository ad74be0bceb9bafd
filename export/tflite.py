"""BinaryGraph -> .tflite with Larq Compute Engine's operators, through LCE's own converter."""

import pickle
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.export.graph import BinaryConv, BinaryGraph, Conv, Dense
from fsg.export.passes import (
    dense_as_convolution,
    float_where_input_is_float,
    pad_before_pool,
    pad_before_sign,
    same_padding,
)
from fsg.runtime.model.tflite import op_counts


def to_tflite(graph: BinaryGraph) -> bytes:
    """Converts a graph for a batch of one; input [1, H, W, C], output [1, classes].

    Errors: FsgError where a layer has no counterpart, where the packages for it are missing, and where the converter
    did not make of the graph exactly the operators that it should.
    """
    graph = lower(graph)
    content = run_writer("lce_writer", graph, packages=("larq_compute_engine", "tensorflow"))
    check_operators(graph, op_counts(content))
    return content


def run_writer(module: str, content: Any, *arguments: str, packages: tuple[str, ...] = ("tensorflow",)) -> bytes:
    """The file that a module of this package writes; it is a program that reads `content`, pickled.

    Errors: FsgError where `packages` are missing or the converter fails.
    """
    for package in packages:
        if find_spec(package) is None:
            raise FsgError(f"TensorFlow Lite export needs the package {package}: pip install 'fsg[export]'")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model.tflite"
        # A process of its own: TensorFlow shares no memory or symbols with PyTorch, and its chatter stays away.
        # -P, so that it imports nothing from the folder the user happens to be in.
        command = [sys.executable, "-P", "-m", f"fsg.export.{module}", *arguments, str(output)]
        result = subprocess.run(command, input=pickle.dumps(content), capture_output=True, check=False)
        if result.returncode or not output.exists():
            lines = result.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise FsgError(f"the converter to TensorFlow Lite failed: {lines[-1].strip()}")
        return output.read_bytes()


def lower(graph: BinaryGraph) -> BinaryGraph:
    """The rewrites after which the converter understands every node, and as what it is."""
    graph = float_where_input_is_float(graph)
    for node in graph.nodes:
        if isinstance(node, BinaryConv) and node.groups > 1:
            raise FsgError(
                f"cannot export {node.name} to TensorFlow Lite: LCE has no binary convolution in {node.groups} groups;"
                " train it with groups=1"
            )
    return same_padding(pad_before_sign(pad_before_pool(dense_as_convolution(graph))))


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
