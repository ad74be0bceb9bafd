"""The folder of a run, without torch: its files, where new ones go, and which is the newest.

config.toml      the settings                     metrics.csv    one row per epoch
checkpoint.pt    after every epoch                flips.csv      the same, one column per binary layer
best.pt          of the best epoch                confusion.csv  what each class was taken for
curves.png       when training has ended          summary.json   when it was not interrupted
events.*         for TensorBoard, if wanted       export/        what fsg export made of it
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fsg import FsgError, make_folder
from fsg.runtime.model.files import read_object, read_rows
from fsg.training.config import Config, load_config, save_config

RUNS = Path("runs")
LOCK = ".lock"
REMEDY = "lower --batch-size (of FSG, --history and --hidden, too), or take smaller images or a smaller --model"
RUN_FILES = ("config.toml", "checkpoint.pt", "metrics.csv", "flips.csv", "summary.json")


@contextmanager
def new_run(config: Config, out: Path | None = None) -> Iterator[Path]:
    """The folder of a new run, `out` or an unused one under ./runs, with its config.toml; locked while it is trained.

    Where the block fails before anything was trained, all of it goes again. Errors: FsgError where a run is in that
    folder already, and where it cannot be written.
    """
    existed = bool(out and out.exists())
    folder = out or unused_folder(config)
    make_folder(folder)
    try:
        with run_lock(folder):
            taken = next((folder / name for name in RUN_FILES if (folder / name).exists()), None)
            if taken:
                raise FsgError(f"{taken} exists: continue that run with --resume {folder}, or choose another --out")
            save_config(config, folder / "config.toml")
            try:
                yield folder
            except (Exception, SystemExit):
                if not (folder / "checkpoint.pt").exists():
                    (folder / "config.toml").unlink(missing_ok=True)
                raise
    except (Exception, SystemExit):
        if not existed:
            with suppress(OSError):  # someone else's file may be in it by now
                folder.rmdir()
        raise


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a run; FsgError where another process trains it."""
    with only_one(folder, f"another fsg train is at work in {folder}: wait for it, or choose another --out"):
        yield


@contextmanager
def only_one(folder: Path, refusal: str) -> Iterator[IO[bytes]]:
    """Holds a folder's lock, a file that child processes may inherit; it ends with the last of them, however that ends.

    A file system without locks is trusted. Errors: FsgError with `refusal` where another process holds it, and where
    the folder cannot be written.
    """
    path = folder / LOCK
    with ExitStack() as stack:
        held = False
        while not held:
            try:
                lock = stack.enter_context(open(path, "wb"))
            except OSError as error:
                raise FsgError(f"cannot write {path}: {error.strerror}; choose another folder") from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise FsgError(refusal) from error
            with suppress(FileNotFoundError):  # the one who held it until now has just removed it
                held = os.path.samestat(os.fstat(lock.fileno()), path.stat())
        try:
            yield lock
        finally:
            path.unlink(missing_ok=True)


def is_locked(folder: Path) -> bool:
    """Whether a process holds a folder's lock."""
    try:
        with open(folder / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def run_label(config: Config) -> str:
    """MODEL-DATASET, fit for the name of a folder."""
    name, _, path = config.dataset.partition(":")
    return f"{config.model.replace(':', '-')}-{Path(path).stem if path else name}"


def unused_folder(config: Config) -> Path:
    """runs/MODEL-DATASET-METHOD, numbered if it is taken."""
    base = RUNS / f"{run_label(config)}-{config.method}"
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def newest_run() -> Path:
    """The run under ./runs whose config.toml is newest; FsgError where there is none."""
    runs = sorted(RUNS.glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise FsgError(f"no run under ./{RUNS}: train one with fsg train, or name its folder")
    return runs[-1].parent


def newest_export() -> Path:
    """The folder of the newest export under ./runs; FsgError where there is none."""
    reports = sorted(RUNS.glob("*/export/report.json"), key=lambda path: path.stat().st_mtime)
    if not reports:
        raise FsgError(f"no export under ./{RUNS}: write one with fsg export, or name a model file")
    return reports[-1].parent


def checked_run(run: Path) -> Path:
    """The run folder, if its settings can be read: a mistyped one is refused before torch is imported."""
    load_config(run / "config.toml")
    return run


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv. Errors: FsgError if it is missing, broken, or of an older version."""
    path = folder / "metrics.csv"
    rows = read_rows(path)
    for name in ("epoch", "seconds", "train_loss", "test_accuracy"):
        if not rows or name not in rows[0]:
            raise FsgError(f"{path} has no {name if rows else 'rows'}: train that run anew with this version of fsg")
    return rows


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run; None if it has none yet. Errors: FsgError if it is broken."""
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = read_object(path)
    seconds = summary.get("seconds_per_step")
    if not (isinstance(seconds, (int, float)) and seconds > 0):
        raise FsgError(f"{path}: is no summary of a run; train that run anew")
    return summary
