"""LiteRT's C library for boards, out of the wheel that Google publishes; fetched once and kept in the user's cache."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from fsg import FsgError, make_folder, replacing

VERSION = "1.4.0"  # the last whose library has the classic C interface, and runs on glibc 2.30 and later
LIBRARY = "libLiteRtRuntimeCApi.so"
ELF_MACHINES = {"aarch64": 183, "x86_64": 62}


class NotFetchedError(FsgError):
    """A library that is published, but cannot be had now."""


def runtime_library(machine: str, given: Path | None = None, progress: Callable[[str], object] | None = None) -> Path:
    """LiteRT's C library for a kind of machine.

    Args:
        machine: "aarch64"; the wheels for x86-64 have none.
        given: a library to use instead of the published one.
        progress: is told what takes time.

    Raises:
        FsgError: there is no such library, `given` is another, or it cannot be fetched.
    """
    if given is not None:
        _check(given, machine)
        return given
    if machine != "aarch64":
        raise FsgError(f"LiteRT publishes no C library for {machine}; give one with --runtime-lib PATH")
    library = cache_folder() / f"litert-{VERSION}-{machine}" / LIBRARY
    if not os.path.exists(library):  # nor is it for who may not look into that folder
        if progress is not None:
            progress(f"fetching LiteRT {VERSION} for {machine} (9 MB, once)")
        _fetch(machine, library)
    return library


def cache_folder() -> Path:
    """Where fsg keeps what it has fetched; FsgError where there is no home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fsg"
    except RuntimeError as error:
        raise FsgError(
            "there is no home folder to keep what is fetched: set HOME or XDG_CACHE_HOME, or give --runtime-lib"
        ) from error


def _check(library: Path, machine: str) -> None:
    try:
        head = library.open("rb").read(20)
    except OSError as error:
        raise FsgError(f"{library}: {error.strerror}") from error
    if head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") != ELF_MACHINES.get(machine):
        raise FsgError(
            f"{library} is no library for {machine}; give {LIBRARY} from that machine's ai-edge-litert wheel"
        )


def _fetch(machine: str, library: Path) -> None:
    make_folder(library.parent)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps"]
    wanted = ["--platform", f"manylinux_2_17_{machine}", "--python-version", "3.11", "--implementation", "cp"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip, *wanted, "--dest", folder, f"ai-edge-litert=={VERSION}"]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if child.returncode or not wheels:
            reason = (child.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise NotFetchedError(
                f"LiteRT's C library for {machine} cannot be fetched ({reason}); give it with --runtime-lib PATH: it is"
                f" ai_edge_litert/{LIBRARY} in the {machine} wheel of ai-edge-litert {VERSION}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            content = wheel.read(f"ai_edge_litert/{LIBRARY}")
    with replacing(library) as temporary:
        temporary.write_bytes(content)
