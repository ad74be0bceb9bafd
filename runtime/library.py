"""What is built for each kind of machine: the library with the binary operators, and the program that boards run."""

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsg import FsgError

FOLDER = Path(__file__).parent / "targets"
COUNTER = Path(__file__).with_name("libcount_instructions.so")  # for qemu: counts what it executes
MACHINES = ("aarch64", "x86_64")  # as `uname -m` calls them
SYSTEMS = ("linux", "android")


@dataclass(frozen=True)
class Target:
    """The files for one kind of machine."""

    machine: str
    program: Path
    delegate: Path


def target(machine: str, system: str = "linux") -> Target:
    """The files for a machine.

    Args:
        machine: "aarch64" or "x86_64", with a 64-bit system.
        system: "linux", with glibc; or "android", on aarch64 alone.

    Raises:
        FsgError: there is no program for such a machine, or this installation was not built.
    """
    if machine not in MACHINES:
        raise FsgError(f"fsg runs on Linux on {' and '.join(MACHINES)}, not on {machine or 'this machine'}")
    if system == "android" and machine != "aarch64":
        raise FsgError(f"fsg runs on Android on aarch64, not on {machine}")
    folder = FOLDER / (machine if system == "linux" else f"{system}-{machine}")
    found = Target(machine, folder / "fsg_benchmark", folder / "libfsg_delegate.so")
    for file in (found.program, found.delegate):
        if not file.is_file():
            raise FsgError(f"{file.name} was not built for {folder.name}: run `make setup` or reinstall fsg")
    return found


def delegate_path() -> str:
    """Path of the native library that gives LiteRT the binary operators.

    Raises:
        FsgError: the library was not built for this machine.
    """
    return str(target(platform.machine()).delegate)


def active_kernels() -> str:
    """Name of the kernels the native library runs: FSG_KERNELS or the best of `possible_kernels`.

    Raises:
        FsgError: the library does not load, or this processor cannot run what FSG_KERNELS names.
    """
    find, message = native_function("fsg_kernels"), ctypes.create_string_buffer(256)
    find.restype = ctypes.c_char_p
    name = find(message, ctypes.c_size_t(len(message)))
    if name is None:
        raise FsgError(message.value.decode().removeprefix("fsg: "))
    return name.decode()


def possible_kernels() -> list[str]:
    """Names of the kernels this processor can run, best first; the last is "scalar", the plain reference."""
    names = ctypes.create_string_buffer(128)
    native_function("fsg_kernel_names")(names)
    return names.value.decode().split(", ")


def native_function(name: str) -> Any:
    """A function that the native library exports; FsgError where it does not load."""
    path = delegate_path()
    try:
        return ctypes.CDLL(path)[name]
    except (OSError, AttributeError) as error:
        raise FsgError(f"{path} does not load ({error}): run `make setup` or reinstall fsg") from error
