"""A board for tests: an ssh server on loopback whose commands run in a folder, with faults on demand.

The commands are real ones of this machine. `uname` says what the board pretends to be; its program may be run by an
emulator. An asyncssh server in a thread of this process, and ssh's own client, are all there is between.
"""

import asyncio
import os
import signal
import stat
import threading
from contextlib import suppress
from pathlib import Path

import asyncssh
from faulty_board import FaultyBoard


class VirtualBoard(FaultyBoard):
    """A context manager; `options` is what ssh needs to reach it as pi@127.0.0.1 at `port`.

    Args: see `FaultyBoard`.
    """

    host, device = "pi@127.0.0.1", "rpi4"

    def __init__(self, folder: Path, *, machine: str = "aarch64", emulator: str = "") -> None:
        super().__init__(folder, machine=machine, emulator=emulator)
        self.commands: list[str] = []
        self.connections = 0
        self.key = folder / "key"
        self._thawed, self._started = threading.Event(), threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
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
    def words(self) -> list[str]:
        """Host, port and options."""
        return [self.host, str(self.port), *self.options]

    @property
    def where(self) -> list[str]:
        """What `fsg bench` is told to reach it."""
        return ["--device", self.device, "--host", self.host, "-p", str(self.port), *self.cli_options]

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
        command = self.changed(command)
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
