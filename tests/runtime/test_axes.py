"""The ticks of the pictures of a training: few, of round numbers, no label twice, the same in every picture."""

import math

import pytest
from matplotlib.figure import Figure

from fsg.runtime.axes import marks, set_accuracy, set_epochs, set_loss, wrapped


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize(
    ("last", "shown"),
    [
        (1, ["1"]),
        (2, ["1", "2"]),
        (4, ["1", "2", "3", "4"]),
        (12, ["2", "4", "6", "8", "10", "12"]),
        (200, ["50", "100", "150", "200"]),
    ],
)
def test_epochs_are_whole_and_there_were_all_of_them(last, shown):
    axes = Figure().subplots()
    set_epochs(axes, range(1, last + 1))
    assert ticks(axes.xaxis) == shown and axes.get_xlim()[0] < 1 and last < axes.get_xlim()[1]
    assert marks(range(last))["markevery"] == (None if last <= 30 else [-1])


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((1.0, 1.0), ["98.0%", "98.5%", "99.0%", "99.5%", "100.0%"]),
        ((0.0,), ["0.0%", "0.5%", "1.0%", "1.5%", "2.0%"]),
        ((0.5, 0.5, math.nan), ["49.0%", "49.5%", "50.0%", "50.5%", "51.0%"]),
        ((0.985, 0.991), ["98.0%", "98.5%", "99.0%", "99.5%"]),
        ((0.1, 1.0), ["20%", "40%", "60%", "80%", "100%"]),
        ((math.nan,), ["0%", "20%", "40%", "60%", "80%", "100%"]),
    ],
)
def test_accuracies_are_per_cents_up_to_100(values, shown):
    axes = Figure().subplots()
    set_accuracy(axes, values)
    low, high = axes.get_ylim()
    assert ticks(axes.yaxis) == shown and all(low < value < high for value in values if value == value)


@pytest.mark.parametrize(
    ("values", "scale", "shown"),
    [
        ((1.9, 1.5), "linear", ["0.0", "0.5", "1.0", "1.5"]),
        ((0.7,), "linear", ["0.0", "0.2", "0.4", "0.6"]),
        ((0.0, 0.0), "linear", ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ((3e6, 1e6, math.inf), "linear", ["0", "1e6", "2e6", "3e6"]),
        ((2e-5,), "linear", ["0", "5e-6", "1e-5", "1.5e-5", "2e-5"]),
        ((2.3, math.nan, 0.05), "log", ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        ((3e9, 0.03), "log", ["0.1", "10", "1000", "100000", "1e7", "1e9"]),
        ((math.nan,), "linear", ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_losses_start_at_0_or_show_every_power(values, scale, shown):
    axes = Figure().subplots()
    set_loss(axes, values)
    assert (axes.get_yscale(), ticks(axes.yaxis)) == (scale, shown)
    low, high = axes.get_ylim()
    assert all(low <= value < high for value in values if math.isfinite(value)) and (scale == "log" or low == 0)


def test_long_names_are_broken_and_a_dollar_is_no_formula():
    assert wrapped("resnet20, " + "x" * 9, 10) == "resnet20,\nxxxxxxxxx"
    assert wrapped("$home/$x", 10) == r"\$home/\$x"
