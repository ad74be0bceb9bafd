"""Which of several machines trains a run: the one whose claim is in its folder.

A claim is a file that is created by whoever is first, and touched as long as they are at work; file systems that
machines share, NFS among them, create a file for one of them only. One that nobody has touched for a while is taken
over; so is, at once, one of a process of this machine that has ended. Neither is while a training goes on that they
left behind. Ages are told by the file system's clock, so those of the machines need not agree.
"""

import hashlib
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from fsg import FsgError
from fsg.training.folder import run_lock

CLAIM = ".claim"
TOUCHED_S, STALE_S = 20.0, 300.0


class Claims:
    """The runs that this process has claimed."""

    def __init__(self) -> None:
        self._token = f"{platform.node()}, process {os.getpid()}, {_machine()}-{os.urandom(8).hex()}\n"
        self._held: dict[Path, float] = {}  # and when they were touched last, by this machine's clock

    def take(self, folder: Path) -> bool:
        """Claims a run, unless another process has it. Errors: FsgError where the folder cannot be written."""
        path = folder / CLAIM
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._create(path):
                return True
            if _is_fresh(path):
                return False
            # Who renames it has it; another one may have done so, and claimed the run anew, since.
            aside = path.with_name(f"{CLAIM}-{os.urandom(8).hex()}")
            stale = path.read_text(encoding="utf-8")
            path.rename(aside)
            if aside.read_text(encoding="utf-8") != stale:
                with suppress(FileExistsError):
                    os.link(aside, path)
                aside.unlink()
                return False
            aside.unlink()
            return self._create(path)
        except FileNotFoundError:  # somebody else was quicker
            return False
        except OSError as error:
            raise FsgError(f"cannot write {path}: {error.strerror}; choose another --out") from error

    def refresh(self) -> list[Path]:
        """Says that this process is still at work on its runs; to be called often.

        Returns the runs that others have taken over, as they may where this machine was asleep.
        """
        lost = []
        for folder, touched in list(self._held.items()):
            if time.monotonic() - touched <= TOUCHED_S:
                continue
            self._held[folder] = time.monotonic()
            with suppress(OSError):
                if self._has(folder):
                    os.utime(folder / CLAIM)
                else:
                    del self._held[folder]
                    lost.append(folder)
        return lost

    def release(self, folder: Path) -> None:
        """Gives a run up."""
        self._held.pop(folder, None)
        with suppress(OSError):
            if self._has(folder):
                (folder / CLAIM).unlink()

    def release_all(self) -> None:
        """Gives up all that this process has."""
        for folder in list(self._held):
            self.release(folder)

    def _has(self, folder: Path) -> bool:
        try:
            return (folder / CLAIM).read_text(encoding="utf-8") == self._token
        except FileNotFoundError:
            return False

    def _create(self, path: Path) -> bool:
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(self._token)
        except FileExistsError:
            return False
        self._held[path.parent] = time.monotonic()
        return True


def holder(folder: Path) -> str | None:
    """Who has claimed a run and is at work, such as "desk, process 12"; None where nobody is."""
    try:
        if _is_fresh(folder / CLAIM):
            return (folder / CLAIM).read_text(encoding="utf-8").rpartition(", ")[0] or None
    except (OSError, ValueError):
        pass
    return None


def _is_fresh(path: Path) -> bool:
    """Whether who made a claim, or a training that they started and left, is taken to be at work."""
    if _age(path) < STALE_S and not _was_left(path):
        return True
    try:
        with run_lock(path.parent):
            return False
    except FsgError:
        return True


def _was_left(path: Path) -> bool:
    """Whether a claim is of a process of this machine that has ended."""
    owner, _, token = path.read_text(encoding="utf-8").rpartition(", ")
    process, machine = owner.rpartition(", process ")[2], token.partition("-")[0]
    if not (machine and machine == _machine() and process.isdecimal()):
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _machine() -> str:
    """The same for those who see each other's processes only; "" where that cannot be told."""
    try:
        seen = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system that it is on."""
    probe = path.with_name(f"{CLAIM}-{os.urandom(8).hex()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
