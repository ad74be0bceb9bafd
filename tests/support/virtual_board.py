"""A board for tests: an ssh server on loopback whose commands run in a folder, with faults on demand.

The commands are real ones of this machine. `uname` says what the board pretends to be; its program may be run by an
emulator. An asyncssh server in a thread of this process, and ssh's own client, are all there is between.
"""

import asyncio
import itertools
import os
import signal
import stat
import threading
from contextlib import suppress
from pathlib import Path

import asyncssh

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


class VirtualBoard:
    """A context manager; `options` is what ssh needs to reach it as pi@127.0.0.1 at `port`.

    Args:
        folder: for all that it writes, to be made; its home, the user's, is in there under an odd name.
        machine: what `uname -m` says.
        emulator: words before the benchmark program; none runs it as it is.
    """

    def __init__(self, folder: Path, *, machine: str = "aarch64", emulator: str = "") -> None:
        self.home = folder / 'it\'s a $HOME; with "quotes" & spaces'
        self.machine, self.emulator = machine, emulator
        # Its own, for a keeper knows by it which folders in /tmp are its board's.
        self.name = f"virtual-{os.getpid()}-{next(NUMBERS)}"
        self.fault = ""
        self.noise = ""
        self.commands: list[str] = []
        self.connections = 0
        self.key = folder / "key"
        self._folder, self._bin = folder, folder / "bin"
        self._thawed, self._started = threading.Event(), threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.home.mkdir(parents=True)
        self._bin.mkdir()
        self.script("uname", f'case $1 in -m) cat "{folder}/machine" ;; -n) echo {self.name} ;; *) echo Linux ;; esac')
        key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        (folder / "program").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(45))
        key.write_public_key(folder / "authorized")
        key.write_private_key(folder / "key")
        (folder / "key").chmod(stat.S_IRUSR)

    def __enter__(self) -> "VirtualBoard":
        self._thread.start()
        assert self._started.wait(60)
        self.known_hosts = self._folder / "known_hosts"
        public = self._host_key.export_public_key().decode()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        return self

    def __exit__(self, *error: object) -> None:
        self._thawed.set()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def options(self) -> list[str]:
        """For ssh: nothing of the configuration of who runs the tests."""
        return ["-F", "none", *self.cli_options]

    @property
    def cli_options(self) -> list[str]:
        """What `fsg bench` takes of them."""
        known = ["-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=none"]
        return ["-i", str(self.key), "-o", "IdentitiesOnly=yes", *known]

    @property
    def leftovers(self) -> list[str]:
        """What fsg left in the board's home."""
        return [path.name for path in self.home.iterdir()]

    def script(self, name: str, text: str) -> None:
        """A command of the board that goes before the system's of that name."""
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def thaw(self) -> None:
        """Ends a stall."""
        self._thawed.set()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self) -> None:
        keys = str(self._folder / "authorized")
        self._server = await asyncssh.listen(
            *("127.0.0.1", 0), server_host_keys=[self._host_key], authorized_client_keys=keys,
            process_factory=self._run, server_factory=self._connected, encoding=None,
        )  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]
        self._started.set()

    def _connected(self) -> asyncssh.SSHServer:
        self.connections += 1
        return asyncssh.SSHServer()

    async def _stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, client: asyncssh.SSHServerProcess) -> None:
        """Runs one command and passes on what it reads, writes and ends with."""
        command = client.command or ""
        self.commands.append(command)
        if "./fsg_benchmark run" in command and self.fault == "drop":
            client.channel.get_connection().abort()
            return
        if "./fsg_benchmark run" in command and self.fault == "stall":
            self._thawed.wait(30)  # the whole server: not even the connection itself is answered for
        command = self._changed(command)
        (self._folder / "machine").write_text(self.machine + "\n")
        environment = {"HOME": str(self.home), "PATH": f"{self._bin}:{os.environ['PATH']}"}
        pipe, places = asyncio.subprocess.PIPE, {"cwd": self.home, "env": environment}
        child = await asyncio.create_subprocess_exec(
            *("sh", "-c", command), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, **places
        )
        feeding = asyncio.ensure_future(copy(client.stdin, child.stdin))
        try:
            outputs = ((child.stdout, client.stdout), (child.stderr, client.stderr))
            await asyncio.gather(*(copy(source, sink, close=False) for source, sink in outputs))
            code = await child.wait()
            client.exit(code if code >= 0 else 255)
        finally:  # of a test that ends before its commands do
            feeding.cancel()
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.gather(child.stdout.read(), child.stderr.read(), child.wait())

    def _changed(self, command: str) -> str:
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


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, close: bool = True) -> None:
    """Copies to the end of the source, or until the sink wants no more."""
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    except (OSError, asyncssh.Error):
        pass
    finally:
        if close:
            sink.close()
