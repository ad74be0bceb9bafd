"""The report of an export as a table for people."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group


def export_table(report: dict[str, Any]) -> "Group":
    """One row per artefact of report.json: size, accuracy, agreement with PyTorch."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    layers, float_size = report["layers"], report["float_size_bytes"]
    verify = report["artefacts"][0]["verify"]
    notes = [
        f"{layers['bitwise']} of {sum(layers.values())} convolutions and dense layers run on bits; "
        f"{report['hypernetwork_parameters_discarded']} hypernetwork parameters stayed behind",
        f"PyTorch: {float_size / 1e3:.0f} kB as float32, accuracy {verify['torch_accuracy']:.2%}; "
        "difference: the median of the logits",
    ]
    if report["activation_bits"] == 32:
        notes.append("32-bit activations rule out XNOR-popcount: for speed, train with --activation-bits 1")
    title = f"Compared with PyTorch on {verify['samples']} test images of {report['dataset']}"
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("file")
    for column in ("size", "smaller", "accuracy", "same top-1", "difference"):
        table.add_column(column, justify="right")
    for artefact in report["artefacts"]:
        verify = artefact["verify"]
        table.add_row(
            Path(artefact["path"]).name,
            f"{artefact['size_bytes'] / 1e3:.1f} kB",
            f"{float_size / artefact['size_bytes']:.1f}x",
            f"{verify['accuracy']:.2%}",
            f"{verify['top1_agreement']:.2%}",
            f"{verify['median_abs_diff']:.1e}",
        )
    return Group(Text(title, "bold"), table, Text("\n".join(notes), "dim"))
