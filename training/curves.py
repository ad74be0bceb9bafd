"""The curves of a run as PNG."""

from math import isfinite
from pathlib import Path

from fsg import replacing
from fsg.runtime.axes import marks, set_accuracy, set_epochs, set_loss, wrapped


def plot_curves(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """Draws loss and accuracy against the epoch from the rows of metrics.csv."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        names = [f"train_{quantity}", f"test_{quantity}"]
        for name, colour in zip(names, ("tab:gray", "tab:blue"), strict=True):
            label = "training" if name.startswith("train") else "test"
            known = [row for row in rows if isfinite(row[name])]
            x, y = [row["epoch"] for row in known], [row[name] for row in known]
            axes.plot(x, y, color=colour, label=label, markersize=4, **marks(x))
        axes.set(xlabel="epoch", ylabel="loss (nats)" if quantity == "loss" else "accuracy")
        set_epochs(axes, epochs)
        set_values = set_loss if quantity == "loss" else set_accuracy
        set_values(axes, [row[name] for row in rows for name in names])
        axes.grid(alpha=0.3)
    last = rows[-1]["test_accuracy"]
    panels[1].annotate(
        f"{last:.1%}",
        (1.02, last),
        xycoords=("axes fraction", "data"),
        color="tab:blue",
        va="center",
        annotation_clip=False,
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(wrapped(title, 75))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
