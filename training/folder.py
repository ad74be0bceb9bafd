"""The folder of a run, without torch: its files, where new ones go, and which is the newest.

config.toml      the settings                     metrics.csv    one row per epoch
checkpoint.pt    after every epoch                flips.csv      the same, one column per binary layer
curves.png       when training has ended          summary.json   when it was not interrupted
events.*         for TensorBoard, if wanted       export/        what fsg export made of it
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsg import FsgError, make_folder
from fsg.runtime.model.files import read_object, read_rows
from fsg.training.config import Config, load_config, save_config

RUNS = Path("runs")
RUN_FILES = ("config.toml", "checkpoint.pt", "metrics.csv", "flips.csv", "summary.json")


def start_run(config: Config, out: Path | None = None) -> Path:
    """Makes the folder of a new run, `out` or an unused one under ./runs, and writes its config.toml.

    Errors: FsgError where a run is in that folder already, and where it cannot be written.
    """
    folder = out or unused_folder(config)
    taken = next((folder / name for name in RUN_FILES if (folder / name).exists()), None)
    if taken:
        raise FsgError(f"{taken} exists: continue that run with --resume {folder}, or choose another --out")
    make_folder(folder)
    save_config(config, folder / "config.toml")
    return folder


@contextmanager
def without_a_trace(folder: Path, *, existed: bool) -> Iterator[None]:
    """Where its block fails before anything was trained, the run that was started in `folder` goes again."""
    try:
        yield
    except (Exception, SystemExit):
        if not (folder / "checkpoint.pt").exists():
            (folder / "config.toml").unlink(missing_ok=True)
            if not existed:
                with suppress(OSError):  # someone else's file may be in it by now
                    folder.rmdir()
        raise


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
