"""Compiles the C++ that tests run, and keeps the results: what has not changed is not compiled a second time."""

import fcntl
import functools
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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

    They may include headers of the product and those beside themselves. Several processes may ask for the same at a
    time: one compiles and the others wait for it.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    result = FOLDER / _key(key_files, command)
    with open(FOLDER / f"{result.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            temporary = FOLDER / f"{result.name}.{os.getpid()}.tmp"
            subprocess.run([*command, "-o", temporary], check=True)
            temporary.replace(result)
    return result


def _key(key_files: Sequence[Path], command: Sequence[str | Path]) -> str:
    headers = {header for file in key_files for header in file.parent.glob("*.h")} | set(NATIVE.rglob("*.h"))
    digest = hashlib.sha256(f"{_compiler()}\0{list(map(str, command))}".encode())
    for file in [*key_files, *sorted(headers)]:
        content = file.read_bytes()
        digest.update(f"\0{file}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@functools.cache
def _compiler() -> str:
    return importlib.metadata.version("ziglang")
