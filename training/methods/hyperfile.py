"""Hypernetworks as files: what `fsg meta-train` learnt over many short trainings, as data.

A file is JSON: format, version, inputs and outputs by name, weights [outputs][inputs], and under "made" the command,
data, seeds and date that made it.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsg import FsgError, replacing

KIND, VERSION = "fsg hypernetwork", 2
SHIPPED = Path(__file__).with_name("hypernetwork.json")
DECAYS = (0.9, 0.99)
"""Of the means that the slow net keeps of what it sees of a layer, over some ten and a hundred steps."""

FIXED = ("constant", "progress", "length", "depth", "fan_in", "one_bit")
SEEN = ("credit", "cosine", "flips")
INPUTS = (*FIXED, *(f"{name}@{decay:g}" for name in SEEN for decay in DECAYS))
OUTPUTS = ("step", "mix", "spectral", "inward")


@dataclass(frozen=True)
class Hypernetwork:
    """The numbers of a slow net: `weights` [outputs][inputs], and who made them."""

    weights: tuple[tuple[float, ...], ...] = ((0.0,) * len(INPUTS),) * len(OUTPUTS)
    made: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, values: dict[str, dict[str, float]], **made: Any) -> "Hypernetwork":
        """From the numbers that are not 0: {output: {input: value}}."""
        rows = ((values.get(output, {}).get(name, 0.0) for name in INPUTS) for output in OUTPUTS)
        return cls(tuple(map(tuple, rows)), made)


def save_hypernetwork(net: Hypernetwork, path: Path) -> None:
    """Writes a file, in place of one that may be there."""
    rows = [f'    "{name}": {json.dumps(row)}' for name, row in zip(OUTPUTS, net.weights, strict=True)]
    head = {"kind": KIND, "version": VERSION, "made": net.made, "inputs": INPUTS}
    text = json.dumps(head, indent=2)[:-2] + ',\n  "weights": {\n' + ",\n".join(rows) + "\n  }\n}\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_hypernetwork(path: Path) -> Hypernetwork:
    """Reads a file. Errors: FsgError for one that cannot be read, is damaged, or of another kind or version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FsgError(f"hypernetwork {path}: {error.strerror}; fsg meta-train makes one") from error
    except ValueError as error:
        raise FsgError(f"hypernetwork {path}: it is damaged or no hypernetwork; fsg meta-train makes one") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise FsgError(f"hypernetwork {path}: it is no hypernetwork; fsg meta-train makes one")
    if content.get("version") != VERSION:
        raise FsgError(
            f"hypernetwork {path}: its version is {content.get('version')}, this fsg reads {VERSION}: make it anew with"
            " fsg meta-train"
        )
    try:
        weights = content["weights"]
        if tuple(content["inputs"]) != INPUTS or tuple(weights) != OUTPUTS:
            raise ValueError
        rows = tuple(tuple(float(value) for value in weights[name]) for name in OUTPUTS)
        if any(len(row) != len(INPUTS) for row in rows) or not all(math.isfinite(v) for row in rows for v in row):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise FsgError(
            f"hypernetwork {path}: its numbers do not fit this fsg: make it anew with fsg meta-train"
        ) from error
    made = content.get("made")
    return Hypernetwork(rows, made if isinstance(made, dict) else {})


def shipped() -> Hypernetwork:
    """The one that comes with fsg."""
    return read_hypernetwork(SHIPPED)
