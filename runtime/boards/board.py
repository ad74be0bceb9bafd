"""Boards as they are used, however they are reached; nothing is installed there, and nothing stays.

A session is held open for as long as a board is used. Its shell, the keeper, makes a folder of its own on the board,
waits for the end of its input, which comes when we close it, die, or lose the connection, and then stops the benchmark
and removes the folder. A keeper that was itself killed (the board lost its power) leaves a folder behind that the next
one finds and removes: the folder's name holds the keeper's process id. All other commands share the keeper's
connection. They need a POSIX shell with cat, mkdir, rm, chmod and uname, and Linux's /proc, which phones have as well.
"""

import json
import shlex
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from fsg import FsgError
from fsg.runtime.boards.answers import ANSWER, FACTS, PROFILE, Rules
from fsg.runtime.boards.child import Child
from fsg.runtime.boards.devices import Device
from fsg.runtime.boards.keeper import BEGIN, READY, RUN, is_abandoned, keeper_script
from fsg.runtime.boards.litert import runtime_library
from fsg.runtime.library import target

Facts = dict[str, Any]
Progress = Callable[[str], object]

TIMEOUT_S = 60.0
CLOSING_S = 10.0  # for what happens after the measurements
CLOSING_SILENT_S = 2.0  # for that with a board that was just given up
PROGRAM, DELEGATE, LIBRARY, MODEL = "fsg_benchmark", "libfsg_delegate.so", "liblitert.so", "model.tflite"
OUTPUT_LIMIT = 1 << 24

NEEDS_64_BIT = {
    "linux": "binary kernels need 64-bit ARM, and on 32-bit systems binary networks are slower than float ones: install"
    " the 64-bit Raspberry Pi OS, or another 64-bit Linux",
    "android": "binary kernels need a 64-bit Android",
}
SYSTEM_NAMES = {"linux": "Linux", "android": "Android"}


class _ProgramError(Exception):
    """Why the program failed."""


class Board(ABC):
    """A board that commands can be run on; a context manager, within which it can be measured.

    Args:
        name: what messages call it.
        timeout_s: after so many seconds without a sign of life the board is given up.
        runtime_lib: LiteRT's C library for the board, if it is not to be fetched.

    Raises (all methods):
        FsgError: what is wrong with which board.
    """

    host: str | None = None  # as it was given; None for this machine
    within_reach = "on the network"

    def __init__(self, name: str, *, timeout_s: float = TIMEOUT_S, runtime_lib: Path | None = None) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._runtime_lib = runtime_lib
        self._sharing: list[str] = []
        self._scratch: str | None = None
        self._keeper: Child | None = None
        self._folder = ""
        self._is_prepared = self._is_silent = False
        self.machine = self.system = ""
        self.left_behind = ""

    @abstractmethod
    def _command(self, script: str, *more: str) -> list[str]:
        """What runs a script in a shell of the board; `more` is for what reaches it."""

    def _share_connection(self) -> list[str]:
        """Words for the keeper's command, whose connection the other commands share by those in `_sharing`."""
        return []

    def _hint(self, said: str) -> str:
        """What may help where no connection came about, and this was said of it in lower case."""
        return ""

    def _cause(self, errors: str) -> str:
        """Why there is no connection, out of what was said of it."""
        return cause_of(errors)

    def __enter__(self) -> Self:
        try:
            self._connect()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        if self.left_behind and isinstance(error, FsgError):
            raise FsgError(f"{error}; {self.left_behind}") from error

    def prepare(self, device: Device, progress: Progress) -> None:
        """Copies the program and its libraries to the board, after a look at what it is.

        Raises:
            FsgError: it is no machine for these programs, or another than the device's.
        """
        if self.system != device.system:
            other = f"the device {device.name} has {SYSTEM_NAMES[device.system]}"
            raise FsgError(f"{self.name} runs {SYSTEM_NAMES[self.system]}, but {other}: choose another --device")
        if self.machine != device.machine:
            other = f"the device {device.name} is {device.machine}: choose another --device"
            raise FsgError(f"{self.name} is {self.machine}, but {other}")
        if self._is_prepared:
            return
        built = target(self.machine, self.system)
        library = runtime_library(self.machine, self._runtime_lib, progress, self.system)
        for name, path in ((PROGRAM, built.program), (DELEGATE, built.delegate), (LIBRARY, library)):
            progress(f"copying {name} to {self.name}")
            self.send(path, name)
        self._call(f"chmod 700 {PROGRAM}", "making the program executable")
        self._is_prepared = True

    def facts(self) -> Facts:
        """What the board says of itself now: processor, clock, temperature, load and so on."""
        try:
            facts = self._run_program(["facts"], "asking what it is", patience_s=self._timeout_s)
        except _ProgramError as error:
            raise FsgError(f"{self.name}: {error}") from error
        self._require_sense({name: value for name, value in facts.items() if value is not None}, FACTS)
        return facts

    def send(self, path: Path, name: str) -> None:
        """Copies a file into the board's folder, and compares what arrived."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise FsgError(f"{path}: {error.strerror}") from error
        doing = f"copying {path.name} to it"
        code, output, errors = self._call(f"cat > {name} && cat {name}", doing, data=content)
        if code:
            raise FsgError(f"{self.name}: cannot store {path.name} ({len(content) / 1e6:.1f} MB): {cause_of(errors)}")
        if output != content:
            raise FsgError(
                f"{self.name}: {path.name} arrived damaged: {len(output)} bytes of {len(content)}; try again"
            )

    def run(self, path: Path, arguments: Sequence[str], progress: Progress, *, pause_s: float = 0) -> dict[str, Any]:
        """Runs the model that was sent last, that of `path`; the answer of `fsg_benchmark run`.

        Args:
            path: what messages call the model.
            arguments: for the program.
            progress: is told how far it is.
            pause_s: how long it keeps silent between two inferences.
        """
        words = ["run", MODEL, "--runtime", f"./{LIBRARY}", "--delegate", f"./{DELEGATE}", "--progress", *arguments]

        def hear(line: str) -> None:
            if line.startswith("fsg: "):
                progress(f"{self.name}: {line.removeprefix('fsg: ')}")

        try:
            answer = self._run_program(words, f"measuring {path.name}", hear, patience_s=self._timeout_s + pause_s)
        except _ProgramError as error:
            cause = str(error).replace(MODEL, str(path))
            raise FsgError(f"{self.name}: {cause if MODEL in str(error) else f'{path}: {cause}'}") from error
        wanted = {**ANSWER, **PROFILE} if "--profile" in arguments else ANSWER
        self._require_sense({**dict.fromkeys(wanted), **answer}, wanted)
        return answer

    def remove(self, name: str) -> None:
        """Removes a file from the board's folder."""
        self._call(f"rm -f {name}", f"removing {name}")

    def _connect(self) -> None:
        own = self._share_connection()
        with self._child(self._command(keeper_script(), *own), "connecting", ends=False) as keeper:
            self._keeper = keeper
            keeper.listen(until=lambda: b"\nfsg-ready\n" in keeper.output)
            said = READY.fullmatch(bytes(keeper.output).partition(BEGIN)[2].decode(errors="replace"))
            if said is None:
                self._refuse(keeper)
        others, system, self.machine, self._folder = said.groups()
        for folder in filter(is_abandoned, others.splitlines()):
            keeper_pid = folder.rpartition(".")[2]
            script = f"kill -9 {shlex.quote(keeper_pid)}; rm -rf {shlex.quote(folder)}"
            self._call(script, "removing what an earlier run left there")
        self.system = system.lower()
        if self.system not in SYSTEM_NAMES:
            raise FsgError(f"{self.name} runs {system}; boards are measured on Linux and Android")
        if self.machine in ("armv6l", "armv7l", "armv8l", "i386", "i686"):
            raise FsgError(f"{self.name} runs a 32-bit system ({self.machine}); {NEEDS_64_BIT[self.system]}")

    def _refuse(self, keeper: Child) -> NoReturn:
        """Tells why no session came about."""
        code = keeper.finish()
        errors = keeper.errors.decode(errors="replace")
        cause = cause_of(errors)
        if code == 3:
            raise FsgError(f"{self.name}: cannot make a folder for programs there: {cause}")
        if not self._is_lost(code, bytes(keeper.output), None):
            shown = bytes(keeper.output[:60]).decode(errors="replace") or cause
            raise FsgError(f"{self.name}: its shell does not do what it is told: {shown!r}")
        hint = self._hint(errors.lower())
        raise FsgError(f"{self.name}: no connection: {self._cause(errors)}{f'; {hint}' if hint else ''}")

    @contextmanager
    def _child(
        self, command: Sequence[str], doing: str, heard: Progress | None = None, *, ends: bool = True
    ) -> Iterator[Child]:
        """A child whose trouble is the board's; it does not outlive the block if it `ends`."""
        try:
            child = Child(command, silence_s=self._timeout_s, limit=OUTPUT_LIMIT, heard=heard)
        except OSError as error:
            raise FsgError(f"{self.name}: cannot start {command[0]}: {error.strerror}") from error
        try:
            yield child
        except TimeoutError:
            self._is_silent = True
            raise FsgError(
                f"{self.name}: no sign of life for {child.silence_s:g} s while {doing}; is it still"
                f" {self.within_reach}? --timeout gives it longer"
            ) from None
        except OverflowError:
            raise FsgError(f"{self.name}: far more output than there should be while {doing}") from None
        finally:
            if ends:
                child.kill()

    def _call(
        self,
        script: str,
        doing: str,
        *,
        data: bytes = b"",
        heard: Progress | None = None,
        patience_s: float | None = None,
    ) -> tuple[int, bytes, str]:
        """Runs a script in the board's folder: its exit code, output and errors; FsgError for a lost connection."""
        script = f"echo fsg-begin; cd {shlex.quote(self._folder)} && {{ {script}; }}"
        with self._child(self._command(script, *self._sharing), doing, heard) as child:
            child.silence_s = patience_s or self._timeout_s
            child.limit = len(data) + OUTPUT_LIMIT
            child.send(data)
            child.listen()
            code = child.end()
        output, errors = bytes(child.output), child.errors.decode(errors="replace")
        if self._is_lost(code, output, self._keeper):
            raise FsgError(
                f"{self.name}: the connection was lost while {doing}{f': {self._cause(errors)}' if errors else ''}"
            )
        return code, output.partition(BEGIN)[2], errors

    def _is_lost(self, code: int, output: bytes, keeper: Child | None) -> bool:
        """Whether a command ended by what reaches the board; `keeper` is that of the session, once there is one."""
        return code == 255 or (keeper is not None and keeper.has_ended)

    def _run_program(
        self, words: Sequence[str], doing: str, heard: Progress | None = None, *, patience_s: float
    ) -> dict[str, Any]:
        """Runs fsg_benchmark; the JSON object that it prints. _ProgramError says why it fails, but not where."""
        script = RUN % (PROGRAM, shlex.join(words))
        code, output, errors = self._call(script, doing, heard=heard, patience_s=patience_s)
        if code:
            raise _ProgramError(self._why(code, errors))
        try:
            answer = json.loads(output)
            if not isinstance(answer, dict) or answer.get("version") != 1:
                raise ValueError
        except ValueError:
            shown = output[:60].decode(errors="replace")
            raise FsgError(f"{self.name}: {PROGRAM} did not answer in JSON while {doing}: {shown!r}") from None
        return answer

    def _require_sense(self, answer: dict[str, Any], rules: "Rules") -> None:
        for name, value in answer.items():
            if name in rules and not rules[name](value):
                shown = repr(value)[:60]
                raise FsgError(f"{self.name}: {PROGRAM} gave an answer that makes no sense: {name} is {shown}")

    def _why(self, code: int, errors: str) -> str:
        """The cause of a program's failure."""
        cause = cause_of(errors)
        if code == 2:
            old = "; its system is too old: Debian 11, Raspberry Pi OS Bullseye and later will do"
            return cause.removeprefix(f"{PROGRAM}: ") + (old if "GLIBC_" in cause and self.system == "linux" else "")
        if code in (126, 127):
            # An executable that is not found has a loader that is not there. What cat is, the system is.
            _, binary, _ = self._call("cat /proc/self/exe", "looking at its programs")
            if binary.startswith(b"\x7fELF\x01"):
                return f"its kernel is {self.machine}, but its programs are 32-bit; {NEEDS_64_BIT[self.system]}"
            needs = {"linux": "glibc, and a home folder that allows programs", "android": "a 64-bit Android"}
            return f"{PROGRAM} cannot be started ({cause}); it needs {needs[self.system]}"
        if code > 128:
            memory = "; is there enough memory?" if code - 128 == signal.SIGKILL else ""
            return f"{PROGRAM} was killed: {signal.strsignal(code - 128) or code}{memory}"
        return f"{PROGRAM} failed with exit code {code}: {cause}"

    def _close(self) -> None:
        """Ends the session, which removes the folder; through a connection of its own if the session is lost."""
        try:
            if self._folder and not self._end_keeper():
                where = f"{self.name}:{self._folder}" if self.host else self._folder
                self.left_behind = f"{where} may be left there, and is removed by the next fsg bench of that board"
        finally:
            if self._keeper:
                self._keeper.kill()
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)
            self._folder = ""

    def _end_keeper(self) -> bool:
        """Whether the folder is gone."""
        keeper = self._keeper
        assert keeper is not None

        def is_gone() -> bool:
            return b"\nfsg-gone\n" in keeper.output

        patience = CLOSING_SILENT_S if self._is_silent else CLOSING_S
        keeper.silence_s = self._timeout_s = min(self._timeout_s, patience)
        try:
            # Not the end of its ssh, which waits for whatever else still runs on the connection that they share.
            keeper.close_input()
            keeper.listen(until=is_gone)
            return is_gone() or self._remove_folder()
        except (TimeoutError, OverflowError):
            return False

    def _remove_folder(self) -> bool:
        """Whether the folder is gone after another connection was made."""
        script = (
            f'folder={shlex.quote(self._folder)}; [ -f "$folder/pid" ] && kill "$(cat "$folder/pid")"; rm -rf "$folder"'
        )
        try:
            with self._child(self._command(script), "removing its folder") as child:
                child.send(b"")
                child.listen()
                return child.end() == 0
        except FsgError:
            return False


class LocalBoard(Board):
    """This machine, measured as a board is."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, runtime_lib: Path | None = None) -> None:
        super().__init__("this machine", timeout_s=timeout_s, runtime_lib=runtime_lib)

    def _command(self, script: str, *more: str) -> list[str]:
        return ["sh", "-c", script]


def cause_of(errors: str) -> str:
    """The last line of what was said of a failure, without anything that a terminal would obey."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()] or ["it does not say why"]
    return "".join(letter if letter.isprintable() else "?" for letter in lines[-1])
