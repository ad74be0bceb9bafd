"""What tests measure boards with: patience with a busy machine, and haste where something is to fail."""

import os
import time
from contextlib import suppress
from pathlib import Path

from fsg.runtime.boards.adb import AdbBoard
from fsg.runtime.boards.devices import find_device
from fsg.runtime.boards.ssh import SshBoard
from fsg.runtime.measure import on_board as remote

RPI4, ANDROID = find_device("rpi4"), find_device("android")


class Haste:
    """A board with patience for all, on however busy a machine, but for the one thing that a test has fail."""

    hasty: str | None = None

    def _call(self, script, doing, **how):
        if self.hasty and doing.startswith(self.hasty):
            how["patience_s"] = 2
        return super()._call(script, doing, **how)


class Hasty(Haste, SshBoard):
    """Such a board behind ssh."""


class HastyPhone(Haste, AdbBoard):
    """Such a phone."""


def await_that(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def measure(board, model, **how):
    with board:
        return remote.measure(board, [model], device=profile(board), **how)


def profile(board):
    """The device of a board."""
    return ANDROID if isinstance(board, AdbBoard) else RPI4


def processes_in(folder):
    """The stand-ins that sleep in a folder of a board under `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder) in os.readlink(process / "cwd") and (process / "cmdline").read_bytes() == b"sleep\x0060\0":
                found.append(process.name)
    return found
