"""What fsg sends to boards: a program that measures models, and the library with the binary operators."""

from dataclasses import dataclass
from pathlib import Path

from fsg import FsgError

FOLDER = Path(__file__).parent / "targets"
MACHINES = ("aarch64", "x86_64")  # as `uname -m` calls them


@dataclass(frozen=True)
class Target:
    """The files for one kind of machine."""

    machine: str
    program: Path
    delegate: Path


def target(machine: str) -> Target:
    """The files for a machine.

    Args:
        machine: "aarch64" or "x86_64", with a 64-bit system.

    Raises:
        FsgError: there is no program for such a machine, or this installation was not built.
    """
    if machine not in MACHINES:
        raise FsgError(f"fsg runs on Linux on {' and '.join(MACHINES)}, not on {machine or 'this machine'}")
    found = Target(machine, FOLDER / machine / "fsg_benchmark", FOLDER / machine / "libfsg_delegate.so")
    for file in (found.program, found.delegate):
        if not file.is_file():
            raise FsgError(f"{file.name} was not built for {machine}: run `make setup` or reinstall fsg")
    return found
