"""Keeps what is expensive to make, by the content of what it is made of, and has it made once.

Several processes may ask for the same at a time, as the workers of pytest-xdist do: one makes it, the others wait.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def digest(*parts: str | bytes) -> str:
    """A name for what is made of these; the length of each is part of it."""
    result = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        result.update(f"{len(content)}\0".encode() + content)
    return result.hexdigest()


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Whoever else asks for the same path waits, in whichever process it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made(path: Path, make: Callable[[Path], object]) -> Path:
    """The path, after `make` has written it if it was not there. Nobody sees half a file."""
    with alone(path):
        if not path.exists():
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            make(temporary)
            temporary.replace(path)
    return path
