"""Android phones that adb reaches."""

import re
import shutil
import subprocess
from pathlib import Path

from fsg import FsgError
from fsg.runtime.boards.board import TIMEOUT_S, Board, cause_of
from fsg.runtime.boards.child import Child
from fsg.runtime.boards.keeper import BEGIN

INSTALL = "install adb, of Android's SDK platform tools (apt-get install adb)"
UNLOCK = "unlock the phone and allow USB debugging from this computer in the dialog that it shows"
PLUG_IN = "plug it in and enable USB debugging in its developer options; `adb devices` lists what is there"
HINTS = {
    **dict.fromkeys(("unauthorized", "authorizing"), UNLOCK),
    "offline": "plug it in again, or start adb anew with `adb kill-server`",
    "no permissions": "this user may not use its USB port: `apt-get install android-sdk-platform-tools-common`",
    **dict.fromkeys(("no devices", "not found"), PLUG_IN),
    "more than one": "say which with --host adb:SERIAL; `adb devices` lists them",
    "support pty args": "it needs Android 7 or later, whose adb tells how programs end",
    "daemon": "`adb start-server` says more",
}
OWN_WORDS = re.compile(r"(?:error|adb): ", re.IGNORECASE)
ENDING_S = 0.5  # between the end of a command and that of the keeper, if the phone was lost


class AdbBoard(Board):
    """A phone that adb reaches, by a cable or a network. adb's server stays on this machine, as after any use of adb.

    Args:
        host: "adb:SERIAL", the serial as `adb devices` shows it; "adb" or "adb:" for the only phone.
        timeout_s, runtime_lib: see `Board`.
    """

    within_reach = "plugged in, and awake"

    def __init__(self, host: str, *, timeout_s: float = TIMEOUT_S, runtime_lib: Path | None = None) -> None:
        super().__init__(host, timeout_s=timeout_s, runtime_lib=runtime_lib)
        self.host = host
        serial = host.removeprefix("adb").removeprefix(":")
        self._adb = ["adb", *(["-s", serial] if serial else [])]

    def _command(self, script: str, *more: str) -> list[str]:
        """What runs a script in the phone's shell: no terminal, no escape character, exit code and errors apart."""
        return [*self._adb, "shell", "-T", "-e", "none", script]

    def _share_connection(self) -> list[str]:
        """Nothing more for the keeper: all commands go through adb's server, which this starts where there is none."""
        if shutil.which("adb") is None:
            raise FsgError(f"there is no adb on this machine: {INSTALL}")
        null = subprocess.DEVNULL
        try:
            subprocess.run(["adb", "start-server"], stdin=null, stdout=null, stderr=null, timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            raise FsgError(f"{self.name}: adb does not finish starting its server") from None
        return []

    def _is_lost(self, code: int, output: bytes, keeper: Child | None) -> bool:
        """adb's own failures have the exit code of a command that fails, 1; but then the phone has said nothing."""
        if keeper is None:
            return code == 255 or not output
        return code == 255 or BEGIN not in output or keeper.ends_within(ENDING_S if code else 0)

    def _cause(self, errors: str) -> str:
        """adb's line that says so; advice may follow it."""
        lines = [line for line in errors.splitlines() if OWN_WORDS.match(line)]
        return OWN_WORDS.sub("", cause_of(lines[0])).rstrip(".") if lines else cause_of(errors)

    def _hint(self, said: str) -> str:
        return next((hint for sign, hint in HINTS.items() if sign in said), "")
