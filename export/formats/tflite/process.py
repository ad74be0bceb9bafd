"""TensorFlow and its converters, in a process of their own that stays for the next model.

TensorFlow shares no memory or symbols with PyTorch then, its chatter stays away, and the five seconds of its import
pass while the caller still reads the run. Run as python -m fsg.export.formats.tflite.process: pickled requests on
standard input, pickled answers on standard output, each after its length in eight bytes.
"""

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from traceback import format_exception_only
from typing import IO, Any

from fsg import FsgError, python

LENGTH = 8  # bytes, little endian


class Converter:
    """A running converter; `converter` gives the one of this process."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it lasts as long as the process
        self._process = subprocess.Popen(
            python(__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **QUIET},
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def convert(self, kind: str, *content: Any) -> bytes:
        """The .tflite file that a converter of `KINDS` makes; FsgError, in one line, where it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send((kind, content), self._process.stdin)
            answer = receive(self._process.stdout)
        except (OSError, EOFError):
            self.close()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise FsgError(f"the converter to TensorFlow Lite failed: {lines[-1].strip()}") from None
        if isinstance(answer, str):
            raise FsgError(f"the converter to TensorFlow Lite failed: {answer}")
        return bytes(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


# KERAS_HOME: Keras would write its settings into the home folder, or without one into a folder called ~ here.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_HOME": os.devnull}
KINDS: dict[str, str] = {"lce": "fsg.export.formats.tflite.lce", "float": "fsg.export.formats.tflite.floats"}
"""Converters by name: modules whose `convert` takes what `Converter.convert` is given, and returns a .tflite file."""
_running: list[Converter] = []


def converter(*, packages: tuple[str, ...] = ("tensorflow",)) -> Converter:
    """This process's converter, started where none runs; it ends with this process.

    Call it early, and what TensorFlow needs to start passes while other things are done. Errors: FsgError where one of
    `packages` is missing.
    """
    for package in packages:
        if find_spec(package) is None:
            raise FsgError(f"TensorFlow's converter needs the package {package}: pip install 'fsg[lce]'")
    if _running and not _running[0].is_alive:
        _running.clear()
    if not _running:
        _running.append(Converter())
        atexit.register(_running[0].close)
    return _running[0]


def send(content: Any, stream: IO[bytes]) -> None:
    """Writes a pickled object after its length."""
    message = pickle.dumps(content)
    stream.write(len(message).to_bytes(LENGTH, "little") + message)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Reads what `send` wrote; EOFError where the stream ends before."""
    length = stream.read(LENGTH)
    message = stream.read(int.from_bytes(length, "little"))
    if len(length) < LENGTH:
        raise EOFError
    return pickle.loads(message)


def serve() -> None:
    """The process's side: answers requests until its input ends, with a file's content or the reason in one line."""
    from importlib import import_module

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what TensorFlow prints is no answer
    converters: dict[str, Callable[..., bytes]] = {}
    import tensorflow  # noqa: F401  while nobody waits for it

    while True:
        try:
            kind, content = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if kind not in converters:
                converters[kind] = import_module(KINDS[kind]).convert
            send(converters[kind](*content), answers)
        except Exception as error:  # TensorFlow's own types, and the user's model
            lines = "".join(format_exception_only(error)).strip().splitlines()
            send(lines[-1].strip(), answers)


if __name__ == "__main__":
    serve()
