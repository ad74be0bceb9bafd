"""Bench records: one line of the table and one object of the JSON each, which record_schema.json describes.

`kind` says what a record's figures are: "measured" (that hardware ran it), "emulated" (results and instructions, never
a time) or "estimated" (a range).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsg import FsgError, replacing

Record = dict[str, Any]

RECORDS = "bench.json"  # beside an export: what was measured of it, for `fsg report`


@dataclass(frozen=True)
class Model:
    """A file to measure; `baseline_of` is the binary model of which it is the twin in other numbers."""

    path: Path
    variant: str = "binary"
    baseline_of: Path | None = None


def keep(records: Sequence[Record], models: Sequence[Model]) -> None:
    """Adds records to bench.json beside the exports that they measure, in place of older ones of the same thing."""
    exports = {
        model.path.parent
        for model in models
        if model.variant == "binary" and model.path.with_name("report.json").exists()
    }
    for folder in exports:
        fresh = [record for record in records if Path(record["artefact"]).parent == folder]
        replaced = {_same_thing(record) for record in fresh}
        kept = [record for record in read_records(folder / RECORDS) if _same_thing(record) not in replaced]
        with replacing(folder / RECORDS) as temporary:
            temporary.write_text(json.dumps([*kept, *fresh], indent=2) + "\n")


def read_records(path: Path) -> list[Record]:
    """The records of a file that `fsg bench` wrote; none where there is no file. FsgError for another content."""
    try:
        records = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise FsgError(f"{path}: holds no records of fsg bench ({error}); measure again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) and "kind" in record for record in records):
        raise FsgError(f"{path}: holds no records of fsg bench; measure again")
    return records


def _same_thing(record: Record) -> tuple[Any, ...]:
    names = ("kind", "device", "host", "threads", "cpu" if record["kind"] == "emulated" else "kind")
    return (Path(record["artefact"]).name, *(record.get(name) for name in names))
