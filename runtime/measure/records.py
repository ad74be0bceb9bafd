"""Bench records: one line of the table and one object of the JSON each, which record_schema.json describes.

`kind` says what a record's figures are: "measured" (that hardware ran it), "emulated" (results and instructions, never
a time) or "estimated" (a range).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsg
from fsg import FsgError, replacing

Record = dict[str, Any]
"""A record as JSON has it: what `as_record` makes of one of the classes below."""

RECORDS = "bench.json"  # beside an export: what was measured of it, for `fsg report`


@dataclass(frozen=True)
class Model:
    """A file to measure.

    `baseline_of` is the binary model of which it is the twin in other numbers, `batch_of` the file that it is for
    another number of images.
    """

    path: Path
    variant: str = "binary"
    baseline_of: Path | None = None
    batch_of: Path | None = None


@dataclass(frozen=True, kw_only=True)
class AnyRecord:
    """What records of every kind say; record_schema.json says what each field means. None is left out of a record."""

    artefact: str
    format: str
    device: str
    size_bytes: int
    arena_bytes: int | None = None
    variant: str = "binary"
    fsg_version: str = fsg.__version__
    baseline_of: str | None = None
    float_size_bytes: int | None = None
    accuracy: float | None = None
    dataset: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(AnyRecord):
    """That hardware ran it."""

    kind: str = "measured"
    threads: int
    runs: int
    latency_ms: dict[str, float]
    images_per_s: float | None = None
    seconds: float | None = None
    first_run_ms: float
    batch: int = 1
    peak_rss_bytes: int
    base_rss_bytes: int
    cpu: str
    kernels: str
    warmup: int | None = None
    cpus: list[int] | None = None
    cooldown_ms: float | None = None
    energy_mj: float | None = None
    times_as_long: float | None = None
    host: str | None = None
    facts: dict[str, dict[str, Any]] | None = None
    warnings: list[str] | None = None
    ops: list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Emulated(AnyRecord):
    """An emulator ran it: results and instructions, never a time."""

    kind: str = "emulated"
    cpu: str
    kernels: str
    bit_exact: bool
    differing: int
    instructions: int
    batch: int = 1
    threads: int | None = None
    host_difference: float | None = None
    host_same_top1: float | None = None
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    cycles: int | None = None
    basis: str | None = None
    ops: list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Estimated(AnyRecord):
    """Nothing ran it: a range."""

    kind: str = "estimated"
    threads: int
    latency_ms: dict[str, float]
    basis: str
    batch: int = 1
    binary_macs: int | None = None
    float_macs: int | None = None
    int8_macs: int | None = None


KINDS: dict[str, type[AnyRecord]] = {"measured": Measured, "emulated": Emulated, "estimated": Estimated}


def as_record(found: AnyRecord) -> Record:
    """What is known, as JSON has it."""
    return {name: value for name, value in asdict(found).items() if value is not None}


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
            temporary.write_text(json.dumps([*kept, *fresh], indent=2) + "\n", encoding="utf-8")


def read_records(path: Path) -> list[Record]:
    """The records of a file that `fsg bench` wrote; none where there is no file. FsgError for another content."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise FsgError(f"{path}: holds no records of fsg bench ({error}); measure again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) and "kind" in record for record in records):
        raise FsgError(f"{path}: holds no records of fsg bench; measure again")
    return records


def _same_thing(record: Record) -> tuple[Any, ...]:
    names = ("kind", "device", "host", "threads", "batch", "cpu" if record["kind"] == "emulated" else "kind")
    return (Path(record["artefact"]).name, *(record.get(name) for name in names))
