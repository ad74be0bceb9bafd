"""Model files by name: their format, their bytes, and what the files beside them say."""

import json
import struct
from pathlib import Path
from typing import Any

from fsg import FsgError

FORMATS = {".tflite": "tflite", ".onnx": "onnx"}

# What the readers of both formats raise on damaged bytes.
DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


def model_format(path: str | Path) -> str:
    """ "tflite" or "onnx", after making sure that the file is there.

    Raises:
        FsgError: no such file, or another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise FsgError(f"{path}: not a model file; expected a name that ends in {' or '.join(FORMATS)}")
    if not path.is_file():
        raise FsgError(f"{path}: no such file; `fsg export` writes one")
    return FORMATS[path.suffix.lower()]


def read_bytes(path: str | Path) -> bytes:
    """The content of a model file; FsgError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FsgError(f"{path}: cannot be read ({error.strerror})") from error


def exported_facts(path: Path) -> dict[str, Any]:
    """Accuracy and float32 size from the export's report.json beside a model file; empty if that knows it not."""
    try:
        report = json.loads(path.with_name("report.json").read_text())
        for artefact in report["artefacts"]:
            if Path(artefact["path"]).name == path.name and artefact["size_bytes"] == path.stat().st_size:
                return {
                    "accuracy": artefact["verify"]["accuracy"],
                    "dataset": report["dataset"],
                    "float_size_bytes": report["float_size_bytes"],
                }
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the report is a courtesy, the measurement does not need it
    return {}


def run_of(path: Path) -> Path:
    """The folder of the run that a model file was exported from; FsgError where none is to be found."""
    said = _report_beside(path).get("run")
    for run in (path.parent.parent, Path(said) if isinstance(said, str) else path.parent):
        if (run / "config.toml").is_file():
            return run
    raise FsgError(
        f"{path}: --baseline makes the same network in other numbers from the run it was trained in, and none belongs"
        " to this file; give a run folder, or a file that fsg export wrote into one"
    )


def exported_checkpoint(path: Path) -> str | None:
    """The digest of the checkpoint that a model file was exported from; None where nobody says."""
    found = _report_beside(path).get("checkpoint")
    return found if isinstance(found, str) else None


def _report_beside(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.with_name("report.json").read_text())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}
