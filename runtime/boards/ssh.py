"""Boards that the system's own ssh reaches."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fsg import FsgError
from fsg.runtime.boards.board import TIMEOUT_S, Board, cause_of

HINTS = {
    "identification has changed": "its key is another than before; if you know why, forget that with `ssh-keygen -R`",
    "host key verification failed": "connect to it once with `ssh %s` and accept its key",
    "permission denied": "give it your public key with `ssh-copy-id %s`, or name a key with -i",
    "could not resolve hostname": "is it switched on, and is this its name?",
    "connection refused": "is ssh enabled on it, and on this port?",
    "timed out": "is it switched on, and on this network?",
    "no route to host": "is it switched on, and on this network?",
}


class SshBoard(Board):
    """A board that ssh reaches.

    The user's ssh configuration, keys, jump hosts and multiplexing hold; passwords are never asked for.

    Args:
        host: as for ssh: a name of the configuration, or USER@HOST.
        port: another than the configuration's.
        options: words for ssh as they stand, such as ["-i", "key", "-o", "ProxyJump=gate"].
        timeout_s, runtime_lib: see `Board`.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
        options: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
        runtime_lib: Path | None = None,
    ) -> None:
        if not host:
            raise FsgError("--host is empty: give a name of your ssh configuration, or USER@HOST")
        if port_too := re.fullmatch(r"([^:/]+):(\d+)", host):
            name, number = port_too.groups()
            raise FsgError(f"--host {host}: ssh takes the port by itself: --host {name} -p {number}")
        super().__init__(host, timeout_s=timeout_s, runtime_lib=runtime_lib)
        self.host = host
        self._port = [] if port is None else ["-p", str(port)]
        self._options = list(options)

    def _ssh(self, *more: str) -> list[str]:
        """ssh's command line up to the host. What the user gives comes first: ssh takes the first of each option."""
        ours = [
            *("BatchMode=yes", f"ConnectTimeout={max(1, int(min(self._timeout_s, 15)))}", "ServerAliveInterval=5"),
            *("ServerAliveCountMax=3", "RemoteCommand=none", "ClearAllForwardings=yes", "PermitLocalCommand=no"),
        ]
        words = [word for option in ours for word in ("-o", option)]
        return ["ssh", *self._options, *self._port, *more, "-T", *words, "--", self.name]

    def _command(self, script: str, *more: str) -> list[str]:
        """What runs a script in a shell of the board; `more` is for ssh."""
        return [*self._ssh(*more), f"exec sh -c {shlex.quote(script)}"]

    def _share_connection(self) -> list[str]:
        """Options for the keeper's ssh, whose connection the other commands share, unless the user has that set up."""
        try:
            asked = subprocess.run(
                [self._ssh()[0], "-G", *self._ssh()[1:]], capture_output=True, text=True, timeout=self._timeout_s
            )
        except FileNotFoundError:
            raise FsgError("there is no ssh on this machine: install OpenSSH's client (openssh-client)") from None
        except subprocess.TimeoutExpired:
            raise FsgError(f"{self.name}: ssh does not finish reading its configuration") from None
        if asked.returncode:
            raise FsgError(f"{self.name}: {cause_of(asked.stderr)}")
        settings = dict(line.split(" ", 1) for line in asked.stdout.splitlines() if " " in line)
        if settings.get("controlpath", "none") != "none":
            return []
        # A socket's name must be short, and in ssh's eyes a % is no plain letter.
        folder = tempfile.gettempdir()
        self._scratch = tempfile.mkdtemp(
            prefix="fsg-", dir=folder if len(folder) < 60 and "%" not in folder else "/tmp"
        )
        self._sharing = ["-o", "ControlMaster=no", "-S", f"{self._scratch}/ssh"]
        return ["-o", "ControlPersist=no", "-M", "-S", f"{self._scratch}/ssh"]

    def _hint(self, said: str) -> str:
        hint = next((hint for sign, hint in HINTS.items() if sign in said), "")
        return hint.replace("%s", " ".join([*self._port, self.name]))
