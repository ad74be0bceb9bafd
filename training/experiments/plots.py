"""Comparisons of runs as PNG."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg import replacing
from fsg.runtime.axes import MARGIN, marks, set_accuracy, set_epochs, set_loss, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fsg.training.experiments.results import Estimate

LABEL = 130  # characters of the legend that fit beside each other


@dataclass(frozen=True)
class Curve:
    """Mean course of runs that differ in the seed alone, one value per epoch; loss (nats) and accuracy (a fraction) are
    pairs of mean and standard error, which is None for a single run."""

    label: str
    runs: int
    epochs: list[float]
    seconds: list[float]
    loss: list[tuple[float, float | None]]
    accuracy: list[tuple[float, float | None]]


def plot_comparison(curves: Sequence[Curve], path: Path, title: str) -> None:
    """Draws training loss and test accuracy against epochs and against seconds: a line and a band for each curve."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from numpy import arange, linspace

    if len(curves) <= 10:
        colours = list(colormaps["tab10"](arange(len(curves))))
    else:  # darker than it is made, for its yellow is not seen on white
        colours = list(colormaps["turbo"](linspace(0, 1, len(curves))) * (0.8, 0.8, 0.8, 1))
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharey="row", sharex="col")
    for row, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        for axes, time in zip(row, ("epochs", "seconds"), strict=True):
            for curve, colour in zip(curves, colours, strict=True):
                _draw_mean(
                    axes, getattr(curve, time), getattr(curve, quantity), colour, f"{curve.label} ({curve.runs})"
                )
            axes.grid(alpha=0.3, which="both")
    panels[0, 0].set_ylabel("training loss (nats)")
    panels[1, 0].set_ylabel("test accuracy")
    panels[1, 0].set_xlabel("epoch")
    panels[1, 1].set_xlabel("seconds of training, evaluation left out")
    set_epochs(panels[1, 0], [epoch for curve in curves for epoch in curve.epochs])
    panels[1, 1].set_xlim(0, max(second for curve in curves for second in curve.seconds) * (1 + MARGIN) or 1)
    set_loss(panels[0, 0], [end for curve in curves for point in curve.loss for end in _band(*point)])
    set_accuracy(panels[1, 0], [end for curve in curves for point in curve.accuracy for end in _band(*point)])
    _annotate_last(panels[0, 0], [curve.loss[-1] for curve in curves], colours, lambda value: f"{value:.3f}")
    _annotate_last(panels[1, 0], [curve.accuracy[-1] for curve in curves], colours, lambda value: f"{100 * value:.2f}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    longest = max(map(len, labels))
    labels = [wrapped(label, LABEL) for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(4, LABEL // longest)), frameon=False)
    figure.suptitle(
        f"{wrapped(title, 140)}\nline: mean over the seeds (how many: in brackets); band: ± one standard error",
        fontsize=11,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plot_progress(checks: Sequence[tuple[int, "Estimate"]], path: Path) -> None:
    """Draws how meta-training went: generations, and the mean relative change of the fitness against the start."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    generations = [0, *(generation for generation, _ in checks)]
    means = [0.0, *(change.mean for _, change in checks)]
    errors = [0.0, *(change.error or 0 for _, change in checks)]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="tab:gray", linewidth=1)
    axes.errorbar(generations, means, errors, color="tab:blue", capsize=3, markersize=4, marker="o")
    axes.yaxis.set_major_formatter(PercentFormatter(1, 1))
    axes.set(xlabel="generation", ylabel="loss against the start")
    set_epochs(axes, generations)
    axes.grid(alpha=0.3)
    figure.suptitle(f"{checks[-1][1].count} tasks that are not learnt on; bar: ± one standard error", fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_mean(axes: "Axes", x: list[float], values: list[tuple[float, float | None]], colour: Any, label: str) -> None:
    """A line through the means and a band of one standard error about it; a bar where there is one epoch."""
    known = [isfinite(mean) for mean, _ in values]
    x, values = list(compress(x, known)), list(compress(values, known))
    axes.plot(x, [mean for mean, _ in values], color=colour, label=label, markersize=4, **marks(x))
    low, high = zip(*(_band(*value) for value in values), strict=True)
    if len(x) == 1:
        axes.vlines(x, low, high, color=colour, alpha=0.4, linewidth=4)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _band(mean: float, error: float | None) -> tuple[float, float]:
    return mean - (error or 0), mean + (error or 0)


def _annotate_last(
    axes: "Axes", finals: list[tuple[float, float | None]], colours: list[Any], write: Callable[[float], str]
) -> None:
    """Writes the last means to the right of the panel, at their height but clear of one another."""
    heights = [float((axes.transData + axes.transAxes.inverted()).transform((1, mean))[1]) for mean, _ in finals]
    for (mean, error), height, colour in zip(finals, spread(heights, 0.06), colours, strict=True):
        text = write(mean) + ("" if error is None else f" ± {write(error)}")
        axes.annotate(text, (1.02, height), xycoords="axes fraction", color=colour, va="center", fontsize=9)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights in [0, 1] apart, so that sorted neighbours differ by at least `gap`; the order stays.

    Where they do not all fit below 1 they go on below 0.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    ceiling = 1.0
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
