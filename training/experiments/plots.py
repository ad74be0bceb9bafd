"""Comparisons of runs as PNG."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    colormap = colormaps["tab10" if len(curves) <= 10 else "turbo"]
    colours = [colormap(i if len(curves) <= 10 else i / (len(curves) - 1)) for i in range(len(curves))]
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
    panels[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1, 1].set_xlim(left=0)
    _choose_loss_scale(panels[0, 0], [mean for curve in curves for mean, _ in curve.loss])
    panels[1, 0].yaxis.set_major_formatter(PercentFormatter(1))
    _annotate_last(panels[0, 0], [curve.loss[-1] for curve in curves], colours, lambda value: f"{value:.3f}")
    _annotate_last(panels[1, 0], [curve.accuracy[-1] for curve in curves], colours, lambda value: f"{100 * value:.2f}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"{title}\nline: mean over the seeds (how many: in brackets); band: ± one standard error", fontsize=11
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_mean(axes: "Axes", x: list[float], values: list[tuple[float, float | None]], colour: Any, label: str) -> None:
    """A line through the means and a band of one standard error about it."""
    means = [mean for mean, _ in values]
    axes.plot(x, means, color=colour, label=label, marker="o" if len(x) < 30 else None, markersize=3)
    low = [mean - (error or 0) for mean, error in values]
    high = [mean + (error or 0) for mean, error in values]
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _choose_loss_scale(axes: "Axes", losses: list[float]) -> None:
    """A logarithmic axis where a linear one would hide the end of the training."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    if min(losses) > 0 and max(losses) > 10 * min(losses):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())


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
