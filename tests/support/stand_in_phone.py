"""A phone for tests, and the `adb` that reaches it.

The phone's commands are real ones of this machine, run in a folder that stands for /data/local/tmp: the only place
where a phone's shell may have programs.
"""

import json
import shlex
import sys
from pathlib import Path

from faulty_board import FaultyBoard

ADB = Path(__file__).with_name("stand_in_adb.py")


class StandInPhone(FaultyBoard):
    """A phone that is reached where `adb_folder` is on PATH.

    Args: see `FaultyBoard`.

    `states` are the phones that adb knows by their serials, and what it says of them: "device" is ready, others are
    "unauthorized", "offline" and "old".
    """

    host, device = "adb:PHONE1", "android"
    words = ("adb:PHONE1",)

    def __init__(self, folder: Path, *, machine: str = "aarch64", emulator: str = "") -> None:
        super().__init__(folder, machine=machine, emulator=emulator)
        self.script("getprop", "echo Stand-in")
        self.adb_folder, self._talk = folder / "adb", folder / "talk"
        for made in (self.adb_folder, self._talk):
            made.mkdir()
        (self._talk / "commands").touch()
        program = self.adb_folder / "adb"
        program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-S", str(ADB), str(self._talk)])} "$@"\n')
        program.chmod(0o755)
        self.states = {"PHONE1": "device"}

    def __setattr__(self, name: str, value: object) -> None:
        """What is set is told to the program, in a file that is always whole."""
        super().__setattr__(name, value)
        if "states" in vars(self):
            (self._folder / "machine").write_text(self.machine + "\n")
            told = {name: value if isinstance(value, str | dict) else str(value) for name, value in vars(self).items()}
            (self._talk / "new").write_text(json.dumps(told))
            (self._talk / "new").replace(self._talk / "state.json")

    @property
    def commands(self) -> list[str]:
        """Every script that the phone was given."""
        return [json.loads(line) for line in (self._talk / "commands").read_text().splitlines()]

    @property
    def where(self) -> list[str]:
        """What `fsg bench` is told to reach it."""
        return ["--device", self.device, "--host", self.host]

    def thaw(self) -> None:
        """Ends a stall, which here ends with the program that stalls."""
