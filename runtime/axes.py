"""The axes of every picture of a training, for matplotlib: whole epochs, per cents, losses."""

import math
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MARGIN = 0.05  # of the range, left free beyond its ends
STEPS = (1, 2, 5, 10)  # from tick to tick, times a power of ten
FEW = 30  # so many points of a line are marked, more would run together


def marks(epochs: Sequence[float]) -> dict[str, Any]:
    """Arguments of `plot` that mark the points of a line: all where they are few, else the last one."""
    return {"marker": "o", "markevery": None if len(epochs) <= FEW else [-1]}


def set_epochs(axes: "Axes", epochs: Iterable[float]) -> None:
    """Whole epochs that there were, a single one in the middle."""
    from matplotlib.ticker import MaxNLocator

    epochs = list(epochs)
    first, last = min(epochs), max(epochs)
    pad = MARGIN * (last - first) or 1
    axes.set_xlim(first - pad, last + pad)
    ticks = MaxNLocator(6, integer=True, min_n_ticks=1, steps=STEPS).tick_values(first, last)
    _set_ticks(axes.xaxis, [tick for tick in ticks if first <= tick <= last])


def set_accuracy(axes: "Axes", values: Iterable[float]) -> None:
    """Per cents about `values`, fractions, at least two points of them and none below 0 or above 100 %."""
    from matplotlib.ticker import MaxNLocator

    known = _finite(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    middle, half = (low + high) / 2, max((high - low) / 2, 0.01)
    middle = min(max(middle, half), 1 - half)
    pad = 2 * half * MARGIN
    low, high = middle - half - pad, middle + half + pad
    axes.set_ylim(low, high)
    ticks = MaxNLocator(6, steps=STEPS).tick_values(100 * low, 100 * high)
    shown = [tick for tick in ticks if max(0, 100 * low) <= tick <= min(100, 100 * high)]
    _set_ticks(axes.yaxis, [tick / 100 for tick in shown], [f"{text}%" for text in _texts(shown)])


def set_loss(axes: "Axes", values: Iterable[float]) -> None:
    """From 0, or on a logarithmic scale where that would hide the end of the training."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    known = _finite(values) or [0.0]
    low, high = min(known), max(known)
    if 0 < 10 * low < high:
        axes.set_yscale("log")
        pad = (high / low) ** MARGIN
        low, high = low / pad, high * pad
        ticks = LogLocator(subs=(1, 2, 5) if high < 2000 * low else (1,), numticks=6).tick_values(low, high)
    else:
        low, high = min(low, 0), high * (1 + MARGIN) or 1
        ticks = MaxNLocator(6, steps=STEPS).tick_values(low, high)
    axes.set_ylim(low, high)
    shown = [tick for tick in ticks if low <= tick <= high]
    _set_ticks(axes.yaxis, shown, [_text(tick) for tick in shown] if axes.get_yscale() == "log" else _texts(shown))


def wrapped(text: str, width: int) -> str:
    """A title or label in lines of at most `width` characters, and a $ in it no formula."""
    return fill(text, width).replace("$", r"\$")


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _set_ticks(axis: "Axis", ticks: Sequence[float], texts: Sequence[str] | None = None) -> None:
    """These ticks with these labels, whole numbers by default, and no others."""
    axis.set_ticks(ticks, _texts(ticks) if texts is None else texts)
    axis.set_ticks([], minor=True)


def _texts(ticks: Sequence[float]) -> list[str]:
    """Ticks at equal distances, with the digits that tell them apart."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    digits += not math.isclose(step * 10**digits, round(step * 10**digits))  # such as 0.25, 2.5
    return [_text(tick) if step >= 1e5 or step < 1e-4 else f"{tick:.{digits}f}" for tick in ticks]


def _text(tick: float) -> str:
    """0.01, 20, 5e6."""
    mantissa, _, exponent = f"{tick:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa
