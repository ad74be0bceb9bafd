"""curves.png and compare.png: their ticks, their marks, and that nothing leaves the picture."""

import warnings

import pytest
from matplotlib.figure import Figure

from fsg.training.curves import plot_curves
from fsg.training.experiments.plots import Curve, plot_comparison


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.fixture
def saved(monkeypatch):
    """The figures that are saved, drawn."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))
    return figures


def inside(figure):
    """Whether all that it draws is on the picture."""
    box, page = figure.get_tightbbox(), figure.bbox_inches
    return min(box.x0, box.y0) >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1


@pytest.mark.parametrize("epochs", [1, 200])
def test_the_curves_of_a_run(tmp_path, saved, epochs):
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    rows = [{"epoch": i + 1.0, **dict.fromkeys(names, 1.0)} for i in range(epochs)]
    with warnings.catch_warnings(action="error"):
        plot_curves(rows, tmp_path / "curves.png", "a.long.module:factory, fsg, " + "$" * 120)
    loss, accuracy = saved[0].axes
    assert ticks(loss.xaxis) == (["1"] if epochs == 1 else ["50", "100", "150", "200"])
    assert ticks(accuracy.yaxis)[-1] == "100.0%" and {line.get_marker() for line in loss.lines} == {"o"}
    assert inside(saved[0])


@pytest.mark.parametrize(("seeds", "error"), [(1, None), (3, 0.1)])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_comparison_of_one_epoch_with_long_names(tmp_path, saved, seeds, error, count):
    curves = [
        Curve(f"ste:{i}:" + "x" * 120, seeds, [1.0], [9.0], [(1.5, error)], [(0.5 + i / 50, error)])
        for i in range(count)
    ]
    with warnings.catch_warnings(action="error"):
        plot_comparison(curves, tmp_path / "compare.png", "net on digits, seeds " + ", ".join(map(str, range(60))))
    panels = saved[0].axes
    assert ticks(panels[2].xaxis) == ["1"] and ticks(panels[0].yaxis) == ["0.0", "0.5", "1.0", "1.5"]
    assert all(panel.lines[0].get_marker() == "o" for panel in panels)
    assert inside(saved[0])
