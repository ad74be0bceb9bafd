"""What a network takes each class for: the confusion matrix of its decisions, and the figures of each class."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError, replacing
from fsg.runtime.tables import table, titled

if TYPE_CHECKING:
    from rich.console import Group

CONFUSION = "confusion.csv"
SHOWN = 20  # classes in a table
FIGURES_NOTE = "recall: of the images of a class; precision: of those taken for it"
MISTAKEN = 3  # others that a class is taken for in it

Matrix = NDArray[np.int64]
"""How many images [class, what it was taken for]."""


class ClassFigures(NamedTuple):
    """A class: how many images it has, the share of them that is found, and of what is taken for it the share that is
    right; None where there are none. `mistaken` are (other class, images), the most frequent first."""

    name: str
    images: int
    recall: float | None
    precision: float | None
    mistaken: list[tuple[str, int]]


def confusion(labels: NDArray[Any], found: NDArray[Any], classes: int) -> Matrix:
    """The matrix [classes, classes] of labels [N] and decisions [N]."""
    return np.bincount(labels * classes + found, minlength=classes**2).reshape(classes, classes)


def class_figures(matrix: Matrix, names: Sequence[str]) -> list[ClassFigures]:
    """The figures of each class, in their order."""
    images, taken, right = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    others = matrix - np.diag(right)
    return [
        ClassFigures(
            name,
            int(images[i]),
            float(right[i] / images[i]) if images[i] else None,
            float(right[i] / taken[i]) if taken[i] else None,
            [(names[j], int(others[i, j])) for j in np.argsort(-others[i], kind="stable") if others[i, j]],
        )
        for i, name in enumerate(names)
    ]


def class_rows(figures: Sequence[ClassFigures]) -> tuple[list[str], list[list[str]]]:
    """Headings and a row for each class."""
    headings = ["class", "images", "recall", "precision", "taken for"]
    rows = [
        [
            one.name,
            f"{one.images:,}",
            *("" if share is None else f"{share:.1%}" for share in (one.recall, one.precision)),
            ", ".join(f"{name} ({count:,})" for name, count in one.mistaken[:MISTAKEN]),
        ]
        for one in figures
    ]
    return headings, rows


def class_table(matrix: Matrix, names: Sequence[str]) -> "Group":
    """The figures of all classes, or of those that are found least where there are many."""
    figures, notes = class_figures(matrix, names), []
    if len(figures) > SHOWN:
        worst = sorted((one for one in figures if one.images), key=lambda one: one.recall or 0.0)[:SHOWN]
        notes.append(f"the {len(worst)} of {len(figures)} classes that are found least")
        figures = worst
    notes.append(FIGURES_NOTE)
    headings, rows = class_rows(figures)
    return titled("", table(headings, rows, left=("class", "taken for"), wrap=("class", "taken for")), notes)


def write_confusion(path: Path, matrix: Matrix, names: Sequence[str]) -> None:
    """Writes the matrix as comma-separated values: a row for each class, a column for what it was taken for."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_confusion(path: Path) -> tuple[Matrix, list[str]] | None:
    """The matrix and the classes of such a file; None where there is no file. Errors: FsgError for a damaged one."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            (_, *names), *rows = csv.reader(file)
        matrix = np.array([[int(count) for count in row[1:]] for row in rows], np.int64)
        if matrix.shape != (len(names), len(names)) or [row[0] for row in rows] != names or matrix.min() < 0:
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FsgError(f"{path}: cannot be read as a table of classes; remove it, or train anew") from error
    return matrix, names
