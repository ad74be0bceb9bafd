"""Files of models and runs by name: their format, their bytes, and what the files beside them say."""

import csv
import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fsg import FsgError, shell_command

REPORT = "report.json"  # beside exported models: what fsg export found out about them
FORMATS = {".tflite": "tflite", ".onnx": "onnx", ".fsg": "packed", ".c": "c"}
SUFFIXES = {name: suffix for suffix, name in FORMATS.items()}

# What the readers of all formats raise on damaged bytes.
DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


def model_format(path: str | Path) -> str:
    """ "tflite", "onnx", "packed" or "c", after making sure that the file is there.

    Raises:
        FsgError: no such file, or another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise FsgError(f"{path}: not a model file; expected a name that ends in {', '.join(FORMATS)}")
    if not path.is_file():
        raise FsgError(f"{path}: no such file; `fsg export` writes one")
    return FORMATS[path.suffix.lower()]


def read_bytes(path: str | Path) -> bytes:
    """The content of a model file; FsgError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FsgError(f"{path}: cannot be read ({error.strerror})") from error


def model_files(targets: Iterable[Path], form: str | None = None) -> tuple[Path, ...]:
    """The model files that `targets` name: files, or runs and export folders for what was exported there.

    With `form` only files of that format are taken from folders. Errors: FsgError for what is no model and for a folder
    that holds none.
    """
    files: list[Path] = []
    for target in targets:
        if not target.is_dir():
            model_format(target)
            files.append(target)
            continue
        folder = target if (target / REPORT).exists() else target / "export"
        suffixes = FORMATS if form is None else (SUFFIXES[form],)
        exported = [path for path in sorted(folder.glob("model.*"), reverse=True) if path.suffix in suffixes]
        if not exported:
            what = "" if form is None else f" as {SUFFIXES[form]}, which this device runs"
            command = shell_command("export", target, "--format", form or "tflite")
            raise FsgError(f"{target}: nothing exported{what}: {command}")
        files += exported
    return tuple(dict.fromkeys(files))


def exported_in(target: Path) -> Path:
    """Of a folder of exports that is no run the first of its model files, .tflite before others; else `target`."""
    if (target / REPORT).is_file() and not (target / "config.toml").exists():
        return model_files([target])[0]
    return target


def report_beside(path: Path) -> dict[str, Any]:
    """What the export's report.json beside a model file says; empty where there is none, or a broken one."""
    try:
        return read_object(path.with_name(REPORT))
    except FsgError:  # the report is a courtesy, a model can be measured without
        return {}


def exported_facts(path: Path) -> dict[str, Any]:
    """Accuracy and float32 size from the export's report beside a model file; empty unless it is of this very file."""
    report, artefact = _artefact_beside(path)
    try:
        if artefact and artefact["sha256"] == file_digest(path):
            return {
                "accuracy": artefact["verify"]["accuracy"],
                "dataset": artefact["verify"].get("dataset") or report["dataset"],
                "float_size_bytes": report["float_size_bytes"],
            }
    except (KeyError, TypeError):  # of another version
        pass
    return {}


def export_doubts(path: Path) -> list[str]:
    """What speaks against taking a model file for the export of its run as that is now."""
    report, artefact = _artefact_beside(path)
    if not artefact:
        return []
    doubts = []
    run = path.parent.parent
    again = shell_command("export", run, "--format", artefact.get("format", "tflite"))
    if artefact.get("sha256") != file_digest(path):
        doubts.append(f"{path} is not the file that fsg export checked: its accuracy is not known; {again} renews it")
    known = [file_digest(path) for path in (run / "checkpoint.pt", run / "best.pt") if path.is_file()]
    if known and report.get("checkpoint") not in (None, *known):
        doubts.append(f"{path} is older than its run, which was trained on since; {again} renews it")
    return doubts


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; FsgError where it cannot be read."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _artefact_beside(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The export's report beside a model file, and what it says of that file's name, if anything."""
    report = report_beside(path)
    artefacts = report.get("artefacts")
    for artefact in artefacts if isinstance(artefacts, list) else []:
        if isinstance(artefact, dict) and Path(str(artefact.get("path"))).name == path.name:
            return report, artefact
    return report, None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, such as summary.json or report.json; empty where there is no file.

    Errors: FsgError for a file that cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FsgError(f"{path}: cannot be read ({error}); write it again") from error
    if not isinstance(content, dict):
        raise FsgError(f"{path}: is no JSON object; write it again")
    return content


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, by the names of its columns; none where there is no file.

    Errors: FsgError for a file that cannot be read, or holds something else than numbers.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise FsgError(f"{path}: cannot be read ({error}); resume or repeat the training") from error
