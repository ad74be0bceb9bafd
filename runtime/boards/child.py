"""A child process that must not keep silent: a time-out on what it says and takes starts anew with every byte."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO

CHUNK = 1 << 16


class Child:
    """A process with pipes for input, output and errors.

    It is in a session of its own: an interrupt at the keyboard reaches the caller alone, which then ends the child in
    good order.

    Args:
        command: what to start.
        silence_s: after so many seconds without a byte in or out, `listen` gives up.
        limit: more bytes of output, or of errors, are too many.
        heard: is called with each line of the errors as soon as it is whole.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        silence_s: float,
        limit: int,
        heard: Callable[[str], object] | None = None,
    ) -> None:
        self.output, self.errors = bytearray(), bytearray()
        self.silence_s, self.limit = silence_s, limit
        self._heard = heard
        self._lines_heard = 0
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        self._selector = selectors.DefaultSelector()
        for stream, kept in ((self._process.stdout, self.output), (self._process.stderr, self.errors)):
            assert stream is not None
            self._selector.register(stream, selectors.EVENT_READ, kept)
        self._to_send = memoryview(b"")

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        """Whether the process is gone, or will be in so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def send(self, data: bytes) -> None:
        """Has `listen` write this, and then close the input."""
        self._to_send = memoryview(data)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._selector.register(self._process.stdin, selectors.EVENT_WRITE)

    def listen(self, until: Callable[[], bool] = lambda: False) -> None:
        """Reads until the condition holds or both pipes end.

        Raises:
            TimeoutError: neither happened, and nothing was heard for too long.
            OverflowError: it said more than is sensible.
        """
        deadline = time.monotonic() + self.silence_s
        while self._reading() and not until():
            events = self._selector.select(max(0.0, deadline - time.monotonic()))
            if not events:
                raise TimeoutError
            for key, _ in events:
                if key.data is None:
                    self._write()
                else:
                    self._read(key.fileobj, key.data)  # type: ignore[arg-type]
            deadline = time.monotonic() + self.silence_s

    def end(self) -> int:
        """Waits for the end of a process whose pipes ended; its exit code, or minus the signal that killed it."""
        self.close_input()
        try:
            return self._process.wait(self.silence_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def finish(self) -> int:
        """Closes the input and reads to the end; returns and raises as `end` and `listen` do."""
        self.close_input()
        self.listen()
        return self.end()

    def kill(self) -> None:
        """Makes an end of the process and all that it started; safe to call at any time."""
        if not self.has_ended:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _reading(self) -> bool:
        return any(key.data is not None for key in self._selector.get_map().values())

    def _read(self, stream: IO[bytes], kept: bytearray) -> None:
        data = os.read(stream.fileno(), CHUNK)
        if not data:
            self._selector.unregister(stream)
        kept += data
        if len(kept) > self.limit:
            raise OverflowError
        if self._heard and kept is self.errors:
            lines = kept.split(b"\n")[:-1]
            for line in lines[self._lines_heard :]:
                self._heard(line.decode(errors="replace"))
            self._lines_heard = len(lines)

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            written = os.write(self._process.stdin.fileno(), self._to_send[:CHUNK])
            self._to_send = self._to_send[written:]
        except BrokenPipeError:  # it wants no more; its exit code will say why
            self._to_send = memoryview(b"")
        if not self._to_send:
            self.close_input()

    def close_input(self) -> None:
        """Has the process read to the end of its input."""
        stream = self._process.stdin
        assert stream is not None
        if not stream.closed:
            if stream in self._selector.get_map():
                self._selector.unregister(stream)
            stream.close()
