"""LiteRT's C library for boards.

That for Linux is out of the wheel that Google publishes, fetched once and kept in the user's cache. For Android there
are only archives for apps (.aar), which the user gives.
"""

import hashlib
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
AAR = "the .aar of com.google.ai.edge.litert:litert:1.4.0 or of org.tensorflow:tensorflow-lite:2.16.1"
AAR_FOLDERS = {"aarch64": "jni/arm64-v8a/"}
C_INTERFACE = b"\0TfLiteInterpreterOptionsAddDelegate\0"  # in the names that a library exports
ELF_MACHINES = {"aarch64": 183, "x86_64": 62}


class NotFetchedError(FsgError):
    """A library that is published, but cannot be had now."""


def runtime_library(
    machine: str,
    given: Path | None = None,
    progress: Callable[[str], object] | None = None,
    system: str = "linux",
) -> Path:
    """LiteRT's C library for a kind of machine.

    Args:
        machine: "aarch64"; the wheels for x86-64 have none.
        given: a library to use instead of the published one; for Android an .aar with one, too.
        progress: is told what takes time.
        system: "linux" or "android".

    Raises:
        FsgError: there is no such library, `given` is another, or it cannot be fetched.
    """
    if given is not None:
        if system == "android" and given.suffix == ".aar":
            given = _out_of_archive(given, machine)
        _check(given, machine)
        return given
    if system == "android":
        raise FsgError(f"LiteRT for Android is not fetched: download {AAR} and give that with --runtime-lib FILE.aar")
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


def _out_of_archive(archive: Path, machine: str) -> Path:
    """The library with the classic C interface in an app's archive, as a file in the user's cache."""
    try:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
        with zipfile.ZipFile(archive) as files:
            names = [name for name in files.namelist() if name.startswith(AAR_FOLDERS.get(machine, "/"))]
            for name in names:
                content = files.read(name)
                if C_INTERFACE in content:
                    library = cache_folder() / f"aar-{digest}" / Path(name).name
                    make_folder(library.parent)
                    with replacing(library) as temporary:
                        temporary.write_bytes(content)
                    return library
    except (zipfile.BadZipFile, OSError) as error:
        raise FsgError(f"{archive} is no archive that can be read ({error}); give {AAR}") from error
    there = ", ".join(names) or f"nothing for {machine}"
    raise FsgError(f"{archive} holds no library with TensorFlow Lite's C interface, but {there}; give {AAR}")


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
