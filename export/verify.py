"""Compares what an exported model computes with what the PyTorch model computes."""

from typing import Any

import numpy as np

from fsg import FsgError
from fsg.export.graph import Floats

MIN_AGREEMENT = 0.97
"""Of the top-1 classes. Float32 rounding may flip a sign near zero, which moves one image's logits visibly: in a deep
network with random weights that is every twentieth image."""

MAX_MEDIAN = 1e-4
"""Of the difference in each class, for logits around 1; in proportion for larger ones. Medians for the same reason;
in each class, because a wrong weight of the last layer moves only one."""


def compare(logits: Floats, expected: Floats, labels: np.ndarray) -> dict[str, Any]:
    """Agreement of logits [N, classes] with those of PyTorch; accuracies are fractions."""
    difference = np.abs(logits - expected)
    top, torch_top = logits.argmax(1), expected.argmax(1)
    return {
        "samples": len(logits),
        "top1_agreement": float((top == torch_top).mean()),
        "median_abs_diff": float(np.median(difference)),
        "max_abs_diff": float(difference.max()),
        "accuracy": float((top == labels).mean()),
        "torch_accuracy": float((torch_top == labels).mean()),
    }


def require_agreement(what: str, logits: Floats, expected: Floats, labels: np.ndarray) -> dict[str, Any]:
    """Returns the comparison; raises FsgError, naming the worst image and class, if it is out of bounds."""
    if logits.shape != expected.shape:
        raise FsgError(
            f"{what}: its output has shape {list(logits.shape)}, PyTorch's {list(expected.shape)}; nothing was exported"
        )
    if not np.isfinite(logits).all():
        raise FsgError(f"{what}: its output is not finite on real images; nothing was exported")
    result = compare(logits, expected, labels)
    difference = np.abs(logits - expected)
    medians = np.median(difference, axis=0)
    limit = MAX_MEDIAN * max(1.0, float(np.abs(expected).mean()))
    if result["top1_agreement"] < MIN_AGREEMENT or not medians.max() <= limit:
        # The median shows which class is wrong; the one image farthest off may owe that to rounding.
        column = int(medians.argmax())
        image = int(difference[:, column].argmax())
        raise FsgError(
            f"{what} disagrees with PyTorch on {result['samples']} test images:"
            f" top-1 agreement {result['top1_agreement']:.2%}, median difference {medians.max():.2g} in class {column};"
            f" worst there at image {image}: {logits[image, column]:.5g} instead of {expected[image, column]:.5g};"
            " nothing was exported"
        )
    return result
