"""Compares what an exported model computes with what the PyTorch model, or the file that it was made of, computes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.export.graph import BinaryGraph, Floats, Input, Negative, Quantize, Sign
from fsg.export.reference import run_graph

MIN_AGREEMENT = 0.97
"""Of the top-1 classes. Float32 rounding may flip a sign near zero, which moves one image's logits visibly: in a deep
network with random weights that is every twentieth image."""

MAX_MEDIAN = 1e-4
"""Of the difference in each class, for logits around 1; in proportion for larger ones. Medians for the same reason;
in each class, because a wrong weight of the last layer moves only one."""

NEAR_ZERO = 1e-5
"""Of a sign's input, in parts of that input's mean magnitude: what rounding may carry across zero. In ResNets and VGGs
with random weights and statistics, PyTorch's inputs of signs and the graph's are up to 6e-6 apart."""


LOOKED_AT = 64
"""How many images are searched for signs near zero where many results differ: it takes a while."""


@dataclass(frozen=True)
class Trial:
    """What files are compared on: normalised images [N, C, H, W], their labels [N] if they have any, and the results
    [N, classes] that `source` computes of them. `dataset` is the one that test images are from."""

    images: Floats
    labels: NDArray[np.int64] | None
    expected: Floats
    source: str = "PyTorch"
    dataset: str | None = None

    @property
    def kind(self) -> str:
        """What the images are."""
        return "test image" if self.dataset else "image"

    def compared(self, logits: Floats) -> dict[str, Any]:
        """`compare` with logits of any kind."""
        return compare(logits.reshape(self.expected.shape), self.expected, self.labels, _accuracy_of(self.source))

    def check(self, what: str, logits: Floats, *how: Any) -> dict[str, Any]:
        """`require_agreement` of logits, with what they were compared with and on."""
        if logits.size == self.expected.size:
            logits = logits.reshape(self.expected.shape)
        found = require_agreement(what, logits, self.expected, self.labels, *how, source=self.source, on=self.kind)
        return found | {"source": self.source} | ({"dataset": self.dataset} if self.dataset else {})


def _accuracy_of(source: str) -> str:
    return "torch_accuracy" if source == "PyTorch" else "source_accuracy"


def compare(
    logits: Floats, expected: Floats, labels: np.ndarray | None, accuracy_of_source: str = "torch_accuracy"
) -> dict[str, Any]:
    """Agreement of logits [N, classes] with those of the source; accuracies, where there are labels, are fractions.

    class_median_abs_diff is the median difference in the class where that is largest.
    """
    difference = np.abs(logits - expected)
    top, expected_top = logits.argmax(1), expected.argmax(1)
    found = {
        "samples": len(logits),
        "top1_agreement": float((top == expected_top).mean()),
        "differing": int((top != expected_top).sum()),
        "median_abs_diff": float(np.median(difference)),
        "class_median_abs_diff": float(np.median(difference, axis=0).max()),
        "max_abs_diff": float(difference.max()),
    }
    if labels is None:
        return found
    return found | {
        "accuracy": float((top == labels).mean()),
        accuracy_of_source: float((expected_top == labels).mean()),
    }


def require_agreement(
    what: str,
    logits: Floats,
    expected: Floats,
    labels: np.ndarray | None,
    near_zero: Callable[[NDArray[np.intp]], NDArray[np.bool_]],
    inside: Callable[[], int] | None = None,
    *,
    source: str = "PyTorch",
    on: str = "test image",
) -> dict[str, Any]:
    """Returns the comparison; raises FsgError, naming the worst image and class, if it is out of bounds.

    A network may be so deep, or so little trained, that rounding flips signs on most images. Out of bounds is then
    right if images without a sign near zero are within, and if all values within the network are as they should be:
    `inside` compares them, returns how many it compared, 0 if it cannot, and raises FsgError for the first that
    differs. `flipped` says on how many of how many images that was so.

    Added are limit, the bound of class_median_abs_diff, and how many of the differing decisions are explained by
    rounding: differing_near_zero by signs, as `near_zero` says of images by their numbers, differing_ties by two
    logits that are as high. One that is neither is an error.
    """
    if logits.shape != expected.shape:
        raise FsgError(
            f"{what}: its output has shape {list(logits.shape)}, that of {source} {list(expected.shape)};"
            " nothing was exported"
        )
    if not np.isfinite(logits).all():
        raise FsgError(f"{what}: its output is not finite on {on}s; nothing was exported")
    result = compare(logits, expected, labels, _accuracy_of(source))
    difference = np.abs(logits - expected)
    medians = np.median(difference, axis=0)
    limit = MAX_MEDIAN * max(1.0, float(np.abs(expected).mean()))
    if result["top1_agreement"] < MIN_AGREEMENT or not medians.max() <= limit:
        some = np.arange(min(len(logits), LOOKED_AT))
        near = near_zero(some)
        clean = some[~near]
        steady = difference[clean].max(1, initial=0) <= 10 * limit
        if near.any() and steady.all() and ((inside() if inside else 0) or len(clean)):
            return result | {"limit": limit, "flipped": [int(near.sum()), len(some)]}
        # The median shows which class is wrong; the one image farthest off may owe that to rounding.
        column = int(medians.argmax())
        image = int(difference[:, column].argmax())
        raise FsgError(
            f"{what} disagrees with {source} on {result['samples']} {on}s:"
            f" top-1 agreement {result['top1_agreement']:.2%}, median difference {medians.max():.2g} in class {column};"
            f" worst there at image {image}: {logits[image, column]:.5g} instead of {expected[image, column]:.5g};"
            " nothing was exported"
        )
    differing = np.flatnonzero(logits.argmax(1) != expected.argmax(1))
    signs = near_zero(differing) if len(differing) else np.zeros(0, bool)
    margins = np.diff(np.sort(expected[differing], axis=1)[:, -2:], axis=1).max(1, initial=0)
    ties = ~signs & (margins <= 2 * limit)  # each of the two may be off by the limit
    if not (signs | ties).all():
        image = int(differing[~(signs | ties)][0])
        raise FsgError(
            f"{what} disagrees with {source} on {on} {image}: class {logits[image].argmax()} instead of"
            f" {expected[image].argmax()}, though no sign's input is within rounding of zero; nothing was exported"
        )
    return result | {"limit": limit, "differing_near_zero": int(signs.sum()), "differing_ties": int(ties.sum())}


def signs_near_zero(graph: BinaryGraph, images: Floats) -> NDArray[np.bool_]:
    """For each image [N, C, H, W], whether some sign's input is within rounding of zero, or a value within rounding of
    halfway between two numbers of the grid that it is put on."""

    def near(value: Floats) -> bool:
        magnitude = np.abs(value)
        return bool(magnitude.min() <= NEAR_ZERO * magnitude.mean())

    def halfway(value: Floats, step: float) -> bool:
        beside = np.abs(np.abs(value / step) % 1 - 0.5) * step
        return bool(beside.min() <= NEAR_ZERO * np.abs(value).mean())

    rounds = [node for node in graph.nodes if isinstance(node, Quantize)]
    grids = [node for node in rounds if not isinstance(graph[node.inputs[0]], Input)]
    sources = {node.inputs[0] for node in graph.nodes if isinstance(node, (Sign, Negative))}
    found = []
    for image in images:  # every value of the graph stays in memory
        values = run_graph(graph, image[None])
        found.append(
            any(near(values[name]) for name in sources)
            or any(halfway(values[node.inputs[0]], node.step) for node in grids)
        )
    return np.array(found, bool)
