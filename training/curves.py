"""The curves of a run as PNG."""

from pathlib import Path

from fsg import replacing


def plot_curves(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """Draws loss and accuracy against the epoch from the rows of metrics.csv."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        for part, colour in (("train", "tab:gray"), ("test", "tab:blue")):
            values = [row[f"{part}_{quantity}"] for row in rows]
            axes.plot(epochs, values, color=colour, label=part, marker="o", markersize=3)
        axes.set(xlabel="epoch", ylabel="cross-entropy (nats)" if quantity == "loss" else "accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    panels[0].set_ylim(bottom=0)
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    panels[1].annotate(
        f"{rows[-1]['test_accuracy']:.1%}",
        (epochs[-1], rows[-1]["test_accuracy"]),
        textcoords="offset points",
        xytext=(0, -14),
        ha="right",
        color="tab:blue",
    )
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
