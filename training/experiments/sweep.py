"""Runs of several methods and seeds, one or several at a time, each in a process; interrupted, they continue."""

import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from rich.console import Console

from fsg import FsgError, make_folder, python
from fsg.training.config import Config, load_config, save_config
from fsg.training.experiments.claims import Claims, holder
from fsg.training.experiments.results import RunGroup, labelled_groups
from fsg.training.folder import is_locked, only_one, read_metrics, read_summary

CHILD = python("fsg", "train", "--resume")  # continues a run, or starts one that has only its settings
LOG = "train.log"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a comparison: its settings, and the folder where it is, or will be."""

    label: str
    config: Config
    folder: Path

    @property
    def begun(self) -> bool:
        """Whether something was trained, which another run must not replace."""
        return any((self.folder / name).exists() for name in ("checkpoint.pt", "summary.json"))

    @property
    def finished(self) -> bool:
        return read_summary(self.folder) is not None

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.config.seed}"


def parse_seeds(text: str) -> list[int]:
    """The numbers in a list such as "0,1,2". Errors: FsgError unless they are different and at least 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise FsgError(f"seeds {text}: give different whole numbers, such as 0,1,2")
    return [int(part) for part in parts]


def run_sweep(
    entries: Mapping[str, Config],
    seeds: Sequence[int],
    folder: Path,
    console: Console,
    *,
    agreed: bool = True,
    jobs: int = 1,
    share: bool = False,
) -> list[RunGroup]:
    """Trains what is not trained yet of all entries for all seeds, in `folder`; the finished runs of each entry.

    Errors: those of `plan_runs` and `run_all`, and where the plan is not `agreed` to.
    """
    planned = plan_runs(entries, seeds, folder)
    plan = plan_told(planned, folder)
    if not agreed:
        raise FsgError(f"this would be {plan}: choose --methods or --dataset, or say --yes")
    _print(console, plan)
    run_all(planned, folder, console, jobs=jobs, share=share)
    return labelled_groups({label: [run.folder for run in planned if run.label == label] for label in entries})


def plan_runs(entries: Mapping[str, Config], seeds: Sequence[int], folder: Path) -> list[PlannedRun]:
    """The runs of all entries for all seeds, seed by seed, in the order in which they are to be run.

    So the comparison is fair at every moment: each entry has about as many seeds as the others. Errors: FsgError for
    two entries that are the same, and for a run in `folder` that was trained with other settings.
    """
    labels: dict[Config, str] = {}
    for label, config in entries.items():
        if config in labels:
            raise FsgError(f"{labels[config]} and {label} are the same settings: leave one out")
        labels[config] = label
    runs = [
        PlannedRun(label, replace(config, seed=seed), folder / f"{_file_name(label)}-seed{seed}")
        for seed in seeds
        for label, config in entries.items()
    ]
    folders: dict[Path, str] = {}
    for run in runs:
        other = folders.setdefault(run.folder, run.name)
        if other != run.name:
            raise FsgError(f"{other} and {run.name} would both be {run.folder}: write one entry differently")
        if run.begun:
            check_same(run)
    return runs


def plan_told(runs: Sequence[PlannedRun], folder: Path) -> str:
    """What is to be trained, in a line."""

    def every(values: Iterable[object]) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))

    return (
        f"{len(runs)} trainings ({every(run.label for run in runs)}; seeds {every(run.config.seed for run in runs)})"
        f" of {every(run.config.model for run in runs)} on {every(run.config.dataset for run in runs)},"
        f" {every(run.config.epochs for run in runs)} epochs each, into {folder}"
    )


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", label)


def check_same(run: PlannedRun) -> None:
    """Raises FsgError unless the run in the folder has the settings that are asked for."""
    found, asked = asdict(load_config(run.folder / "config.toml")), asdict(run.config)
    for key, value in asked.items():
        if found[key] != value:
            raise FsgError(
                f"{run.folder} was trained with {key} = {found[key]!r}, not {value!r}:"
                " choose another --out, or delete that folder"
            )


def run_all(runs: Sequence[PlannedRun], folder: Path, console: Console, *, jobs: int = 1, share: bool = False) -> None:
    """Trains what is not finished yet, `jobs` runs at a time, and shows how far it is and how long it may take.

    Each run is a child process, which shares the machine's cores evenly with the others unless its settings give it
    threads, and has a GPU of its own where there are several. Their output is in RUN/train.log. With `share` other
    processes, on this machine or others, may do the same with the same runs, each of which one of them trains; it ends
    when all are finished, whoever did it. Errors: FsgError, after all runs, where one failed or ended before its last
    epoch; and where another process is at work in the folder. KeyboardInterrupt passes, once the runs have been ended
    in good order; the next call continues them.
    """
    make_folder(folder)
    failures: list[str] = []
    number = {run: f"run {place} of {len(runs)}: {run.name}" for place, run in enumerate(runs, 1)}
    waiting, at_work = deque(runs), dict[PlannedRun, subprocess.Popen[bytes]]()
    used = dict[PlannedRun, str]()  # the GPU of each run at work
    gpus = visible_gpus() if jobs > 1 else []
    claims, told = Claims() if share else None, ""

    def take() -> PlannedRun | None:
        """The next run that is not finished, and that nobody else has taken."""
        for _ in range(len(waiting)):
            run = waiting.popleft()
            mine = not run.finished and (claims is None or claims.take(run.folder))
            if run.finished:  # by now
                check_same(run)
                _print(console, f"{number[run]}: finished before")
                if claims and mine:
                    claims.release(run.folder)
            elif mine:
                return run
            else:
                waiting.append(run)
        return None

    with ExitStack() as stack:
        lock, busy = None, f"another fsg compare is at work in {folder}: wait for it, or choose another --out"
        if claims:
            if is_locked(folder):
                raise FsgError(f"{busy}; --share is for all that take part")
            stack.callback(claims.release_all)
        else:
            if others := next(filter(None, (holder(run.folder) for run in runs)), None):
                raise FsgError(f"{others}, is at work in {folder}: take part with --share, or choose another --out")
            lock = stack.enter_context(only_one(folder, busy))
        try:
            with console.status("starting") as status:
                while waiting or at_work:
                    while len(at_work) < jobs and (run := take()):
                        _print(console, f"{number[run]}: into {run.folder}")
                        if gpus:
                            used[run] = min(gpus, key=[used[other] for other in at_work].count)
                        at_work[run] = _start(run, lock, jobs, gpu=used.get(run))
                    others = _told_of_others(waiting) if waiting and not at_work else ""
                    if others not in ("", told) and not console.is_terminal:  # where no status is seen
                        _print(console, others)
                    told = others
                    status.update(_state(number, at_work, runs, jobs) or others)
                    _wait(at_work.values(), POLL_SECONDS)
                    lost = claims.refresh() if claims else []
                    for run in [run for run in at_work if run.folder in lost]:
                        _print(console, f"  {run.name}: others have taken it over")
                        process = at_work.pop(run)
                        process.send_signal(signal.SIGINT)
                        process.wait()
                        waiting.append(run)
                    for run in [run for run, process in at_work.items() if process.poll() is not None]:
                        try:
                            _require_finished(run, at_work.pop(run).returncode)
                        except FsgError as error:
                            failures.append(str(error))
                            _print(console, f"  {error}")
                        else:
                            _print(console, _outcome(run, runs, jobs))
                        if claims:
                            claims.release(run.folder)
        except BaseException:
            for process in at_work.values():
                process.send_signal(signal.SIGINT)
            for process in at_work.values():
                process.wait()
            raise
    if failures:
        raise FsgError(f"{len(failures)} of {len(runs)} runs are not finished; {failures[0]}")


def visible_gpus() -> list[str]:
    """The CUDA devices that runs may have, as CUDA_VISIBLE_DEVICES names them; none where there is one at most."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        found = [name.strip() for name in given.split(",") if name.strip()]
    else:
        try:
            command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
            asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return []
        found = asked.stdout.split() if asked.returncode == 0 else []
    return found if len(found) > 1 else []


def _told_of_others(waiting: Iterable[PlannedRun]) -> str:
    """Which runs others are at work on."""
    return "waiting for " + "; ".join(f"{run.name} ({holder(run.folder) or 'nobody yet'})" for run in waiting)


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _state(
    number: Mapping[PlannedRun, str], at_work: Collection[PlannedRun], runs: Sequence[PlannedRun], jobs: int
) -> str:
    """Which epochs the runs at work are in, and what is left to do; nothing where none is."""
    if not at_work:
        return ""
    epochs = {run: min(len(_rows(run)) + 1, run.config.epochs) for run in at_work}
    left = seconds_left(runs)
    about = "" if left is None else f", about {_duration(left / jobs)} left for all"
    return "; ".join(f"{number[run]}: epoch {epoch} of {run.config.epochs}" for run, epoch in epochs.items()) + about


def _outcome(run: PlannedRun, runs: Sequence[PlannedRun], jobs: int) -> str:
    last, left = _rows(run)[-1], seconds_left(runs)
    return (
        ("  " if jobs == 1 else f"  {run.name}, ")
        + f"epoch {last['epoch']:.0f}: training loss {last['train_loss']:.4f},"
        + f" test accuracy {last['test_accuracy']:.2%}"
        + (f"; about {_duration(left / jobs)} left" if left else "")
    )


def _start(run: PlannedRun, lock: IO[bytes] | None, jobs: int, *, gpu: str | None = None) -> "subprocess.Popen[bytes]":
    """Begins or continues a run in a child process, one of so many at a time."""
    make_folder(run.folder)
    if not run.begun:
        save_config(run.config, run.folder / "config.toml")
    share = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // jobs))} if jobs > 1 else {}
    with open(run.folder / LOG, "ab") as log:
        # In a process group of its own, so that Ctrl-C at a terminal reaches it once, from here.
        return subprocess.Popen(
            [*CHILD, str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**share, **os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})},
            pass_fds=[lock.fileno()] if lock else [],
            process_group=0,
        )


def _require_finished(run: PlannedRun, code: int) -> None:
    """Raises FsgError, with the reason, unless a child process that ended with `code` has finished its run."""
    if code:
        lines = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        raise FsgError(f"{run.name}: {lines[-1].removeprefix('fsg: error: ')} (see {run.folder / LOG})")
    if not run.finished:
        raise FsgError(f"{run.name}: stopped before its last epoch; the same command continues it")


def _wait(processes: Iterable["subprocess.Popen[bytes]"], seconds: float) -> None:
    """Until one of them has ended, but no longer than so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        time.sleep(POLL_SECONDS / 20)


def _rows(run: PlannedRun) -> list[dict[str, float]]:
    return read_metrics(run.folder) if (run.folder / "metrics.csv").exists() else []


def seconds_left(runs: Sequence[PlannedRun]) -> float | None:
    """Roughly how long the epochs that are missing take: as long as those of the same entry, or of the others.

    None where not one epoch has been run yet. Evaluation and the start of a run are not counted.
    """
    done = {run: _rows(run) for run in runs}
    pace: dict[str, list[float]] = {}
    for run, rows in done.items():
        if rows:
            pace.setdefault(run.label, []).append(rows[-1]["seconds"] / len(rows))
    if not pace:
        return None
    mean = {label: sum(values) / len(values) for label, values in pace.items()}
    other = sum(mean.values()) / len(mean)
    missing = {run: 0 if run.finished else run.config.epochs - len(rows) for run, rows in done.items()}
    return sum(epochs * mean.get(run.label, other) for run, epochs in missing.items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
