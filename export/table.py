"""What an export found out, as a table for people."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg.runtime.model.exported import (
    WORTH_TELLING,
    beside_float,
    decisions,
    depth,
    float_layers,
    integers,
    memory,
    times_smaller,
)
from fsg.runtime.tables import table, titled

if TYPE_CHECKING:
    from rich.console import Group


def export_table(report: dict[str, Any]) -> "Group":
    """One row per artefact of report.json: size, accuracy, agreement with PyTorch."""
    layers, float_size = report["layers"], report["float_size_bytes"]
    first = report["artefacts"][0]
    title, known = _compared(report, first["verify"]), first.get("int8", first["verify"])
    on_bits = f"{layers['bitwise']} of {sum(layers.values())} convolutions and dense layers run on bits"
    if "hypernetwork_parameters_discarded" in report:
        on_bits += f"; {report['hypernetwork_parameters_discarded']} hypernetwork parameters stayed behind"
    accuracy = known.get("torch_accuracy", known.get("source_accuracy"))
    notes = [
        on_bits,
        *float_layers(report),
        f"{known.get('source', 'PyTorch')}: {float_size / 1e3:.0f} kB as float32"
        + (f", accuracy {accuracy:.2%}" if accuracy is not None else "")
        + "; difference: the largest median of a class's logits; its limit grows with them",
    ]
    if report.get("activation_bits") == 32:
        notes.append("32-bit activations rule out XNOR-popcount: for speed, train with --activation-bits 1")
    rows = []
    for artefact in report["artefacts"]:
        verify, name = artefact["verify"], Path(artefact["path"]).name
        if (other := _compared(report, verify)) != title:
            notes.append(f"{name}: {other[:1].lower()}{other[1:]}")
        if float_size < WORTH_TELLING * artefact["size_bytes"]:
            notes.append(f"{name}: {beside_float(artefact, report)}")
        of_file = (integers(artefact), decisions(verify), depth(artefact), memory(artefact))
        notes += [f"{name}: {told}" for told in of_file if told]
        rows.append(
            [
                name,
                {"lce": "LCE's converter"}.get(artefact["writer"], "fsg"),
                f"{artefact['size_bytes'] / 1e3:.1f} kB",
                times_smaller(float_size, artefact["size_bytes"]),
                f"{verify['accuracy']:.2%}" if "accuracy" in verify else "",
                f"{verify['top1_agreement']:.2%}",
                f"{verify['class_median_abs_diff']:.1e}",
                f"{verify['limit']:.1e}",
            ]
        )
    headings = ("file", "written by", "size", "smaller", "accuracy", "same top-1", "difference", "limit")
    return titled(title, table(headings, rows, left=("file", "written by"), wrap=("file",)), notes)


def _compared(report: dict[str, Any], verify: dict[str, Any]) -> str:
    """What a file was compared with, and on what images."""
    source = verify.get("source", "PyTorch")
    dataset = verify.get("dataset") or (report.get("dataset") if source == "PyTorch" else None)
    images = f"test images of {dataset}" if dataset else "random images"
    return f"Compared with {source} on {verify['samples']} {images}"
