"""The trainings of a meta-training: run in worker processes, and written down as they end."""

import csv
import math
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from fsg import FsgError
from fsg.training.experiments.short import ShortTrainer, Task, fitness


class Trial(NamedTuple):
    """One training of a meta-training: `side` is 1 or -1 of a pair, 0 for a check of what the generation begins with,
    -2 for one of the start."""

    generation: int
    number: int
    side: int


class Book:
    """trials.csv: what is known of trials, each on the disk as soon as it has ended; with no path, in memory alone.

    Errors: FsgError for a file that is none. A line that a kill cut short is dropped.
    """

    columns = (*Trial._fields, "fitness", "task", "seed", "lr")

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[Trial, float] = {}
        if path and path.exists():
            *lines, rest = path.read_text(encoding="utf-8").split("\n")
            rows = list(csv.DictReader(lines))
            try:
                self.known = {Trial(*(int(row[f]) for f in Trial._fields)): float(row["fitness"]) for row in rows}
            except (KeyError, TypeError, ValueError) as error:
                raise FsgError(f"{path}: is no table of trials; delete it, or choose another --out") from error
            if rest:
                path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def add(self, trial: Trial, value: float, task: Task) -> None:
        """Writes down a trial, unless it is known."""
        if trial in self.known:
            return
        self.known[trial] = value
        if self.path:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if not file.tell():
                    writer.writerow(self.columns)
                writer.writerow([*trial, repr(value), task.name, task.config.seed, f"{task.config.lr:g}"])


class Workers:
    """Trains tasks in `jobs` processes, or with one job in this one. To be used as a context."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.pool: ProcessPoolExecutor | None = None
        self.train = ShortTrainer()

    def __enter__(self) -> "Workers":
        if self.jobs > 1:
            spawn = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(self.jobs, mp_context=spawn, initializer=_end_with_parent)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()

    def run(self, tasks: Mapping[Trial, Task]) -> Iterator[tuple[Trial, float]]:
        """The fitness of each task as soon as it is known; infinite where a training went astray.

        Errors: those of a training; FsgError where a process was killed.
        """
        if not self.pool:
            for trial, task in tasks.items():
                yield trial, fitness(self.train(task))
            return
        trials = {self.pool.submit(_train, task): trial for trial, task in tasks.items()}
        try:
            for future in as_completed(trials):
                yield trials[future], future.result()
        except BrokenProcessPool as error:
            raise FsgError("a training was killed; if memory ran out, lower --jobs or --batch-size") from error


def _end_with_parent() -> None:
    """Ends this worker process as soon as the one that it works for is gone, be it killed."""
    parent = multiprocessing.parent_process()
    assert parent

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


_trainer: list[ShortTrainer] = []  # of a worker process


def _train(task: Task) -> float:
    if not _trainer:
        _trainer.append(ShortTrainer())
    return fitness(_trainer[0](task))


def relative(values: Sequence[float], starts: Sequence[float]) -> list[float]:
    """By how much of the start's each value differs; trainings that went astray on both sides say nothing."""
    pairs = zip(values, starts, strict=True)
    return [(value - start) / start for value, start in pairs if math.isfinite(value) and math.isfinite(start)]
