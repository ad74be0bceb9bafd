"""Whether a network can be exported, which people want to know before they train it."""

from typing import TYPE_CHECKING

import numpy as np

from fsg import FsgError
from fsg.export.deep import check_values
from fsg.export.formats.tflite.direct import lower
from fsg.export.graph import Quantize
from fsg.export.int8 import learned_layers
from fsg.export.recognise import simplify
from fsg.export.trace import trace, values_of

if TYPE_CHECKING:
    from torch import nn


def exportable(model: "nn.Module", shape: tuple[int, int, int]) -> str:
    """Tries what an export would do with a network for images of `shape` (C, H, W), up to writing files.

    Returns what will not be possible, in a line; nothing where all formats can be written. Errors: FsgError, naming the
    layer, where none can.
    """
    read = trace(model, shape)
    images = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    check_values(read, values_of(model, images), images, "PyTorch")
    graph = simplify(read)
    graph = learned_layers(graph) if graph.count(Quantize) else graph
    try:
        lower(graph)
    except FsgError as error:
        return f"as .onnx only: {error}"
    return ""
