"""A real OpenSSH server on loopback, as the user who runs the tests, that pretends to be an aarch64 board."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

SBIN = "/usr/sbin:/usr/local/sbin"
PRIVILEGE_SEPARATION = Path("/run/sshd")  # which a server that root starts wants to be there


def find_server() -> str | None:
    """The path of sshd."""
    return shutil.which("sshd", path=f"{os.environ['PATH']}:{SBIN}")


class Server:
    """A context manager; `options` is what ssh needs to reach it as `host` at `port`.

    Args:
        folder: for all that it writes, to be made; its home is in there.
        emulator: words before the benchmark program; none runs it as it is.
    """

    def __init__(self, folder: Path, *, emulator: str = "") -> None:
        self.home, self._folder = folder / "home", folder
        self.host = f"{getpass.getuser()}@127.0.0.1"
        self.home.mkdir(parents=True)
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        name = f"board-{os.getpid()}"  # its own: a keeper knows by it which folders in /tmp are its board's
        self._script("bin/uname", f"case $1 in -m) echo aarch64 ;; -n) echo {name} ;; *) echo Linux ;; esac")
        change = f"s|[.]/fsg_benchmark|{emulator} ./fsg_benchmark|g"
        self._script(
            "board",
            f'export HOME="{self.home}" PATH="{folder}/bin:$PATH"; cd "$HOME"\n'
            f'exec sh -c "$(printf %s "$SSH_ORIGINAL_COMMAND" | sed \'{change}\')"',
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def __enter__(self) -> "Server":
        if os.getuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": self._folder / "host_key",
            "AuthorizedKeysFile": self._folder / "key.pub",
            "ForceCommand": self._folder / "board",
            "PidFile": "none",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "StrictModes": "no",
            "UsePAM": "no",
        }
        config = self._folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self._log = open(self._folder / "log", "wb")
        server = find_server()
        assert server is not None
        self._process = subprocess.Popen([server, "-D", "-e", "-f", config], stderr=self._log)
        self._await_port()
        public = (self._folder / "host_key.pub").read_text()
        (self._folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()

    @property
    def options(self) -> list[str]:
        """For ssh: nothing of the configuration of who runs the tests."""
        return ["-F", "none", *self.cli_options]

    @property
    def cli_options(self) -> list[str]:
        """What `fsg bench` takes of them."""
        known = ["-o", f"UserKnownHostsFile={self._folder / 'known_hosts'}", "-o", "GlobalKnownHostsFile=none"]
        return ["-i", str(self._folder / "key"), "-o", "IdentitiesOnly=yes", *known]

    @property
    def leftovers(self) -> list[str]:
        """What fsg left in the board's home."""
        return [path.name for path in self.home.iterdir()]

    def _script(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def _await_port(self) -> None:
        for _ in range(1200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("sshd does not listen")
