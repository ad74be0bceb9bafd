"""The report of an export as a table for people."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def export_table(report: dict[str, Any]) -> "Table":
    """One row per artefact of report.json: size, accuracy, agreement with PyTorch."""
    from rich.table import Table

    layers, float_size = report["layers"], report["float_size_bytes"]
    verify = report["artefacts"][0]["verify"]
    caption = (
        f"{layers['bitwise']} of {sum(layers.values())} convolutions and dense layers are bitwise;"
        f" {report['hypernetwork_parameters_discarded']} hypernetwork parameters left behind;"
        f" PyTorch: {float_size / 1e3:.0f} kB as float32, accuracy {verify['torch_accuracy']:.2%}"
    )
    if report["activation_bits"] == 32:
        caption += "; with 32-bit activations no runtime can use XNOR-popcount"
    table = Table(
        title=f"{report['model']}, compared with PyTorch on {verify['samples']} test images of {report['dataset']}",
        caption=caption,
        box=None,
        pad_edge=False,
    )
    table.add_column("artefact")
    for column in ("size", "smaller than float32", "accuracy", "same top-1", "median difference of logits"):
        table.add_column(column, justify="right")
    for artefact in report["artefacts"]:
        verify = artefact["verify"]
        table.add_row(
            str(Path(artefact["path"])),
            f"{artefact['size_bytes'] / 1e3:.1f} kB",
            f"{float_size / artefact['size_bytes']:.1f}x",
            f"{verify['accuracy']:.2%}",
            f"{verify['top1_agreement']:.2%}",
            f"{verify['median_abs_diff']:.1e}",
        )
    return table
