"""Compiles the C++ that tests run, and keeps the results: what has not changed is not compiled a second time."""

import functools
import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import kept

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "runtime" / "native"
FOLDER = ROOT / "build" / "compiled"
ZIG = (sys.executable, "-m", "ziglang")
INCLUDE = ("-I", str(NATIVE))  # for the product's headers
DELEGATE = ("kernels/**/*.cc", "delegate/**/*.cc")


def product(*patterns: str) -> list[Path]:
    """Sources of the product below runtime/native."""
    return [source for pattern in patterns for source in sorted(NATIVE.glob(pattern))]


def built(key_files: Sequence[Path], command: Sequence[str | Path]) -> Path:
    """What a command makes of the files; it lacks only where to write its output.

    They may include headers of the product and those beside themselves.
    """
    name = _key(key_files, command)
    return kept.made(FOLDER / name, lambda path: subprocess.run([*command, "-o", path], check=True))


def _key(key_files: Sequence[Path], command: Sequence[str | Path]) -> str:
    headers = {header for file in key_files for header in file.parent.glob("*.h")} | set(NATIVE.rglob("*.h"))
    files = [*key_files, *sorted(headers)]
    parts = [part for file in files for part in (str(file), file.read_bytes())]
    return kept.digest(_compiler(), str([*map(str, command)]), *parts)


@functools.cache
def _compiler() -> str:
    return importlib.metadata.version("ziglang")
