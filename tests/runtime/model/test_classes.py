"""Confusion matrices and the figures of classes."""

import numpy as np
import pytest

from fsg import FsgError
from fsg.runtime.model.classes import class_figures, class_table, confusion, read_confusion, write_confusion
from fsg.terminal import print_table

NAMES = ["ant", 'a "bee", small', "cat", "never"]


@pytest.mark.parametrize("seed", range(5))
def test_against_counting(seed):
    rng = np.random.default_rng(seed)
    labels, found = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    matrix = confusion(labels, found, 4)
    for true in range(4):
        for taken in range(4):
            assert matrix[true, taken] == sum((labels == true) & (found == taken))
    for number, figures in enumerate(class_figures(matrix, NAMES)):
        of, taken = labels == number, found == number
        right = sum(of & taken)
        assert figures.images == sum(of)
        assert figures.recall == (pytest.approx(right / sum(of)) if of.any() else None)
        assert figures.precision == (pytest.approx(right / sum(taken)) if taken.any() else None)
        assert dict(figures.mistaken) == {
            NAMES[other]: n for other in range(4) if other != number and (n := sum(of & (found == other)))
        }
        counts = [count for _, count in figures.mistaken]
        assert counts == sorted(counts, reverse=True)


def test_many_classes_are_shown_by_the_worst(capsys):
    names = [f"class{i}" for i in range(30)]
    matrix = np.diag(np.arange(30))
    matrix[:, 0] += 10  # so that later ones are found more often
    print_table(class_table(matrix, names))
    out = capsys.readouterr().out
    assert "class1 " in out and "class20 " in out and "class29" not in out
    assert "the 20 of 30 classes that are found least" in out and "class0 (10)" in out


def test_a_file_gives_the_matrix_back(tmp_path):
    path, matrix = tmp_path / "confusion.csv", np.arange(16).reshape(4, 4)
    assert read_confusion(path) is None
    write_confusion(path, matrix, NAMES)
    found = read_confusion(path)
    assert found is not None and found[1] == NAMES
    np.testing.assert_array_equal(found[0], matrix)
    for damage in ("", "class,a\n", "class,a\na,x\n", "class,a\nb,1\n", "class,a\na,-1\n"):
        path.write_text(damage)
        with pytest.raises(FsgError, match="cannot be read as a table of classes"):
            read_confusion(path)
