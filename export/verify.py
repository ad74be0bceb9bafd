"""Compares what an exported model computes with what the PyTorch model computes."""

from typing import Any

import numpy as np

from fsg import FsgError
from fsg.export.graph import Floats

MIN_AGREEMENT = 0.995
MAX_MEDIAN = 1e-4
"""Medians, because float32 rounding may flip a sign near zero, which moves one image's logits visibly."""


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
    if not np.isfinite(logits).all():
        raise FsgError(f"{what}: its output is not finite on real images; nothing was exported")
    result = compare(logits, expected, labels)
    if result["top1_agreement"] < MIN_AGREEMENT or not result["median_abs_diff"] <= MAX_MEDIAN:
        difference = np.abs(logits - expected)
        image, column = np.unravel_index(difference.argmax(), difference.shape)
        raise FsgError(
            f"{what} disagrees with PyTorch on {result['samples']} test images:"
            f" top-1 agreement {result['top1_agreement']:.2%}, median difference {result['median_abs_diff']:.2g};"
            f" worst at image {image}, class {column}: {logits[image, column]:.5g} instead of"
            f" {expected[image, column]:.5g}; nothing was exported"
        )
    return result
