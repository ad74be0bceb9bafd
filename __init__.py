"""fsg: train binary neural networks in PyTorch and run them bitwise on ARM boards."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsg.face import Trained as Trained
    from fsg.face import bench as bench
    from fsg.face import export as export
    from fsg.face import train as train
    from fsg.runtime.model.predict import Model as Model
    from fsg.runtime.model.predict import load as load

__version__ = "0.1.0"

EXTRA_OF = {"torch": "train", "tomli_w": "train", "matplotlib": "train", "tensorboard": "train", "onnx": "export"}
TEMPORARY = ".fsg-"  # how the names of what will take another's place begin
STALE_SECONDS = 24 * 3600.0  # nothing is written for so long: what is older was left by a crash


PLACES = {
    **dict.fromkeys(("load", "Model"), "fsg.runtime.model.predict"),
    **dict.fromkeys(("train", "bench", "Trained"), "fsg.face"),
}
"""Where the names are that programs find here. They are imported when they are asked for: NumPy comes with them."""


def __getattr__(name: str) -> Any:
    if name == "export":  # a folder that can be called: see its __init__
        return import_module("fsg.export")
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


class FsgError(Exception):
    """A problem the user can solve; the message is one line: what, where and the remedy."""


class OutOfMemoryError(FsgError):
    """There was not enough memory."""


def why(error: BaseException) -> str:
    """An exception's reason on one line, without a repeated file name."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block has ended well.

    Whatever happens, `path` holds either its old content or all of the new. Errors: FsgError where it cannot be
    written.
    """
    # Another name for every process and thread, and with the mode that the user's umask gives.
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{os.urandom(4).hex()}.tmp")
    remove_stale(path.parent)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FsgError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    finally:
        with suppress(OSError):  # a read-only file system says so even of files that are not there
            temporary.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Removes what processes that crashed long ago have left of files to be replaced, and of folders of such."""
    with suppress(OSError):
        for path in folder.glob(f"{TEMPORARY}*"):
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def installed() -> Iterator[None]:
    """Where its block needs a package of an extra that is not installed: FsgError with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise FsgError(f"this needs the package {error.name}: pip install 'fsg[{extra}]'") from error


@contextmanager
def within_memory(remedy: str) -> Iterator[None]:
    """Where its block runs out of memory, for arrays or for tensors on whatever device: FsgError with the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError, FsgError) as error:
        # Some who read files take what torch raises for damage.
        cause = error.__cause__ if isinstance(error, FsgError) else error
        signs = ("allocate memory", "out of memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")
        told = isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in signs)
        if isinstance(error, OutOfMemoryError) or not (told or isinstance(error, MemoryError)):
            raise
        where = "the GPU's memory" if "CUDA" in str(cause) else "memory"
        raise OutOfMemoryError(f"{where} is not enough for this: {remedy}") from error


def make_folder(path: Path) -> None:
    """Creates a folder and its parents; FsgError where that, or writing into it, is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK | os.X_OK)
    except OSError as error:
        raise FsgError(f"cannot create the folder {path}: {error.strerror}; choose another") from error
    if not writable:
        raise FsgError(f"cannot write into the folder {path}: permission denied; choose another")


def expanded(path: str | Path) -> Path:
    """The path with ~ as the home folder that it means; FsgError where there is no such folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FsgError(f"{path}: there is no home folder for ~ here; write the path without it, or set HOME") from error


def require_utf8(*names: str) -> None:
    """Raises FsgError for a path whose bytes are no UTF-8, which the libraries that open files cannot be given."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            shown = name.encode(errors="backslashreplace").decode()
            raise FsgError(f"{shown}: the name is no UTF-8, which files here need; rename it") from error


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of fsg in a process of its own.

    -P: it imports nothing from the folder that the user happens to be in, which may hold a random.py or an fsg/.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def shell_command(*words: object) -> str:
    """A command of fsg's to print, quoted so that a shell takes it as it is meant."""
    return shlex.join(["fsg", *map(str, words)])
