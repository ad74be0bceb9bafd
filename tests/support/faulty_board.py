"""What boards for tests have in common, however they are reached: commands of this machine, and faults on demand."""

import itertools
import os
from pathlib import Path

FAULTS = {
    "full disk": ("cat > liblitert.so", "cat > /dev/full"),
    "damaged copy": ("&& cat liblitert.so", "&& echo something else"),
    "killed": ("./fsg_benchmark run", "sh -c 'kill -9 $$' ./fsg_benchmark run"),
    "killed by itself": ("./fsg_benchmark run", "sh -c 'kill -ILL $$' ./fsg_benchmark run"),
    "garbage": ("./fsg_benchmark run", "echo '{\"version\": 1, \x1b[31m'; : ./fsg_benchmark run"),
    "endless garbage": ("./fsg_benchmark run", "cat /dev/zero; : ./fsg_benchmark run"),
    "no loader": ("./fsg_benchmark", "./no-such-program"),
    "no times": ("./fsg_benchmark run", 'echo \'{"version": 1, "times_us": []}\'; : ./fsg_benchmark run'),
    "no memory": (
        "./fsg_benchmark run",
        'echo \'{"version": 1, "times_us": [1], "first_us": 1, "peak_rss_bytes": 0}\'; : ./fsg_benchmark run',
    ),
    "odd facts": ("./fsg_benchmark facts", 'echo \'{"version": 1, "load": "high"}\'; : ./fsg_benchmark facts'),
    "old system": ("./fsg_benchmark run", "sh -c 'echo version GLIBC_2.30 not found >&2; exit 2' ./fsg_benchmark run"),
    "program fails": (
        "./fsg_benchmark run",
        "sh -c 'echo fsg_benchmark: the model is for a greater board >&2; exit 2'",
    ),
}
"""What a command is replaced with, by fault. Beside them: "drop" and "stall" at the benchmark, "32-bit programs"."""

NUMBERS = itertools.count()


class FaultyBoard:
    """A folder in which commands run as on a board.

    `uname` says what the board pretends to be; its program may be run by an emulator.

    Args:
        folder: for all that it writes, to be made; its home, the user's, is in there under an odd name.
        machine: what `uname -m` says.
        emulator: words before the benchmark program; none runs it as it is.
    """

    host: str  # for --host
    device: str  # for --device

    def __init__(self, folder: Path, *, machine: str = "aarch64", emulator: str = "") -> None:
        self.home = folder / 'it\'s a $HOME; with "quotes" & spaces'
        self.machine, self.emulator = machine, emulator
        # Its own, for a keeper knows by it which folders in /tmp are its board's.
        self.name = f"virtual-{os.getpid()}-{next(NUMBERS)}"
        self.fault = ""
        self.noise = ""
        self._folder, self._bin = folder, folder / "bin"
        self.home.mkdir(parents=True)
        self._bin.mkdir()
        self.script("uname", f'case $1 in -m) cat "{folder}/machine" ;; -n) echo {self.name} ;; *) echo Linux ;; esac')
        (folder / "program").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(45))

    @property
    def leftovers(self) -> list[str]:
        """What fsg left in the board's home."""
        return [path.name for path in self.home.iterdir()]

    def script(self, name: str, text: str) -> None:
        """A command of the board that goes before the system's of that name."""
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def changed(self, command: str) -> str:
        """The command as the board runs it: with its fault, and its noise before."""
        if self.fault in FAULTS:
            old, new = FAULTS[self.fault]
            command = command.replace(old, quoted(new) if "exec sh -c" in command else new)
        if self.fault == "32-bit programs":
            command = command.replace("./fsg_benchmark", "./no-such-program")
            command = command.replace("cat /proc/self/exe", f"cat {self._folder}/program")
        if self.emulator:
            command = command.replace("./fsg_benchmark", f"{self.emulator} ./fsg_benchmark")
        return f"{self.noise}{command}"


def quoted(text: str) -> str:
    """Text within a script that is itself in single quotes."""
    return text.replace("'", "'\"'\"'")
