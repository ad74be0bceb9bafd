"""What an export found out, as a table for people."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg.runtime.model.exported import WORTH_TELLING, beside_float, decisions, depth, float_layers, times_smaller
from fsg.runtime.tables import table, titled

if TYPE_CHECKING:
    from rich.console import Group


def export_table(report: dict[str, Any]) -> "Group":
    """One row per artefact of report.json: size, accuracy, agreement with PyTorch."""
    layers, float_size = report["layers"], report["float_size_bytes"]
    verify = report["artefacts"][0]["verify"]
    notes = [
        f"{layers['bitwise']} of {sum(layers.values())} convolutions and dense layers run on bits; "
        f"{report['hypernetwork_parameters_discarded']} hypernetwork parameters stayed behind",
        *float_layers(report),
        f"PyTorch: {float_size / 1e3:.0f} kB as float32, accuracy {verify['torch_accuracy']:.2%}; "
        "difference: the largest median of a class's logits; its limit grows with them",
    ]
    if report["activation_bits"] == 32:
        notes.append("32-bit activations rule out XNOR-popcount: for speed, train with --activation-bits 1")
    title = f"Compared with PyTorch on {verify['samples']} test images of {report['dataset']}"
    rows = []
    for artefact in report["artefacts"]:
        verify = artefact["verify"]
        if float_size < WORTH_TELLING * artefact["size_bytes"]:
            notes.append(f"{Path(artefact['path']).name}: {beside_float(artefact, report)}")
        notes += [f"{Path(artefact['path']).name}: {told}" for told in (decisions(verify), depth(artefact)) if told]
        rows.append(
            [
                Path(artefact["path"]).name,
                {"lce": "LCE's converter"}.get(artefact["writer"], "fsg"),
                f"{artefact['size_bytes'] / 1e3:.1f} kB",
                times_smaller(float_size, artefact["size_bytes"]),
                f"{verify['accuracy']:.2%}",
                f"{verify['top1_agreement']:.2%}",
                f"{verify['class_median_abs_diff']:.1e}",
                f"{verify['limit']:.1e}",
            ]
        )
    headings = ("file", "written by", "size", "smaller", "accuracy", "same top-1", "difference", "limit")
    return titled(title, table(headings, rows, left=("file", "written by"), wrap=("file",)), notes)
