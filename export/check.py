"""Whether a network can be exported, which people want to know before they train it."""

from typing import TYPE_CHECKING

import torch

from fsg import FsgError
from fsg.export.formats.tflite.direct import lower
from fsg.export.graph import BinaryGraph
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace

if TYPE_CHECKING:
    from torch import nn


def exportable(model: "nn.Module", shape: tuple[int, int, int]) -> str:
    """Tries what an export would do with a network for images of `shape` (C, H, W), up to writing files.

    Returns what will not be possible, in a line; nothing where all formats can be written. Errors: FsgError, naming the
    layer, where none can.
    """
    graph = simplify(trace(model, shape))
    _check_meaning(model, graph, shape)
    try:
        lower(graph)
    except FsgError as error:
        return f"as .onnx only: {error}"
    return ""


def _check_meaning(model: "nn.Module", graph: BinaryGraph, shape: tuple[int, int, int]) -> None:
    """Raises FsgError where the graph computes something else than the model."""
    training = model.training
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            expected = model.eval()(images)
            found = torch.from_numpy(run_graph(graph, images.numpy())[graph.nodes[-1].name])
    finally:
        model.train(training)
    distance = (found - expected).abs().median()
    if expected.shape != found.shape or not distance <= 0.01 * expected.abs().max() + 1e-5:
        raise FsgError("cannot export the model: what was read of its forward gives something else; please report it")
