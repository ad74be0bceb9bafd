"""The profiles of the boards that `fsg bench` can measure, or estimate for: devices.toml, and the user's own."""

import os
import platform
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg import FsgError
from fsg.runtime.library import SYSTEMS
from fsg.runtime.tables import facts, table, titled

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

BUILT_IN = Path(__file__).with_name("devices.toml")
MICROCONTROLLERS = ("armv7-m", "armv7e-m")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Device:
    """A board; None, or an empty text, is what nobody knows. devices.toml says what each figure means."""

    name: str
    label: str = ""
    core: str = ""
    clock_ghz: float | None = None
    cores: int | None = None
    l1d_kb: float | None = None
    l2_kb: float | None = None
    memory_gb_s: float | None = None
    machine: str = "aarch64"
    system: str = "linux"
    source: str = ""

    @property
    def runs(self) -> str:
        """The format of the files that it runs: "c" on a microcontroller, else "tflite"."""
        return "c" if self.machine in MICROCONTROLLERS else "tflite"

    @property
    def address(self) -> str:
        """What its --host looks like."""
        return "adb:SERIAL" if self.system == "android" else "USER@HOST"


FIELDS: dict[str, type] = {
    **dict.fromkeys(("label", "core", "machine", "system", "source"), str),
    **dict.fromkeys(("clock_ghz", "l1d_kb", "l2_kb", "memory_gb_s"), float),
    "cores": int,
}
TYPE_NAMES = {str: "a text", float: "a number above 0", int: "a whole number above 0"}


def load_devices(extra: Path | None = None) -> dict[str, Device]:
    """All devices by name: fsg's, then those of the user's file, then those of `extra`; the last of a name wins.

    The user's file is fsg/devices.toml under XDG_CONFIG_HOME, which is ~/.config by default; it need not exist.

    Raises:
        FsgError: a file cannot be read, or says something of a device that is not a field of `Device`.
    """
    devices = read_devices(BUILT_IN)
    devices["local"] = Device("local", devices["local"].label, machine=platform.machine())
    for path in (user_file(), extra):
        if path is not None and (path == extra or os.path.isfile(path)):
            devices |= read_devices(path)
    return devices


def user_file() -> Path:
    """Where a user's own devices are looked for; without a home folder, its ~ stays as it is."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "fsg", "devices.toml")


def find_device(name: str, extra: Path | None = None) -> Device:
    """The device of that name; FsgError with all names there are if there is none."""
    devices = load_devices(extra)
    if name not in devices:
        raise FsgError(
            f"no device is called {name}; there are {', '.join(devices)}, and you can add your own to {user_file()}"
        )
    return devices[name]


def read_devices(path: Path) -> dict[str, Device]:
    """The devices of one TOML file, each a table under its name."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FsgError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise FsgError(f"{path} is no TOML file: {error}") from error
    return {name: _device(path, name, table) for name, table in tables.items()}


def _device(path: Path, name: str, table: Any) -> Device:
    if not isinstance(table, dict):
        raise FsgError(f"{path}: {name} is outside of any device; begin one with a line such as [my-board]")
    if not NAME.fullmatch(name):
        raise FsgError(f"{path}: [{name}] is no name for a device: use letters, digits, dots, dashes and underscores")
    for field, value in table.items():
        if field not in FIELDS:
            raise FsgError(f"{path}: [{name}] has a field {field}; those of a device are {', '.join(FIELDS)}")
        wanted = FIELDS[field]
        kinds = (int, float) if wanted is float else (wanted,)
        is_right = isinstance(value, kinds) and not isinstance(value, bool)
        # Not `value <= 0`: nan is neither above nor below.
        if not is_right or (wanted is not str and not 0 < value < float("inf")):
            raise FsgError(f"{path}: [{name}] {field} is {value!r}; give {TYPE_NAMES[wanted]}")
    if table.get("system", SYSTEMS[0]) not in SYSTEMS:
        raise FsgError(f"{path}: [{name}] system is {table['system']!r}; give {' or '.join(SYSTEMS)}")
    table = {**table, "core": table.get("core", "").lower()}
    return Device(name=name, **{"label": name, "source": str(path), **table})


def devices_table(devices: Iterable[Device]) -> "Group":
    """One row for each device."""
    headings = ("device", "core", "GHz", "cores", "L1 KiB", "L2+3 KiB", "GB/s", "board")
    rows = []
    for device in devices:
        figures = (device.clock_ghz, device.cores, device.l1d_kb, device.l2_kb, device.memory_gb_s)
        rows.append([device.name, device.core or "?", *map(_figure, figures), device.label])
    notes = (
        "GB/s: what a copy loop moves, as others measured it; `fsg devices NAME` shows the sources.",
        f"Your own devices: {user_file()}, or a file given with --devices.",
    )
    return titled("", table(headings, rows, left=("device", "core", "board"), wrap=("board",)), notes)


def device_table(device: Device) -> "Table":
    """One row for each field of a device."""
    values = ((field.name, getattr(device, field.name)) for field in fields(device))
    return facts((name, "?" if value in (None, "") else str(value)) for name, value in values)


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
