"""What is known of ARM's cores: cores.toml says what each figure means, and where it is from."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Peaks:
    """Peaks of one core in a cycle: multiply-accumulates by kind, and instructions of the best loop."""

    binary: float
    float32: float
    int8: float
    instructions: float

    def mac_cycles(self, *, binary_macs: float, float_macs: float, int8_macs: float) -> float:
        """Cycles of multiply-accumulates at the core's peak."""
        return binary_macs / self.binary + float_macs / self.float32 + int8_macs / self.int8


DEFAULTS = {"in_order": False, "emulated_as": "cortex-a76", "mca": None}


@dataclass(frozen=True)
class Core:
    """A core by its name in profiles of devices; `peaks` and `mca` are None where there are none."""

    name: str
    part: int
    label: str
    in_order: bool
    emulated_as: str
    mca: str | None
    peaks: Peaks | None


@cache
def cores() -> dict[str, Core]:
    """All cores by name, the slower before the faster."""
    tables = tomllib.loads(Path(__file__).with_name("cores.toml").read_text(encoding="utf-8"))
    return {name: _core(name, table) for name, table in tables.items()}


def _core(name: str, table: dict[str, object]) -> Core:
    figures = [table.pop(figure, None) for figure in ("binary", "float32", "int8", "instructions")]
    peaks = Peaks(*figures) if all(figures) else None  # type: ignore[arg-type]
    return Core(name=name, peaks=peaks, **{**DEFAULTS, **table})  # type: ignore[arg-type]


def peaks_of(core: str) -> Peaks | None:
    """The peaks of the core of that name; None where they are not known."""
    found = cores().get(core)
    return found.peaks if found else None
