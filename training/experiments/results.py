"""Finished runs, and statistics over the seeds that trained them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fsg import FsgError, shell_command
from fsg.training.config import Config, load_config
from fsg.training.experiments.plots import Curve
from fsg.training.folder import read_metrics, read_summary

NO_DIFFERENCE = ("seed", "data_dir", "tensorboard")  # settings in which the runs of one group may differ
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error of the mean of some values; one value has no error."""

    mean: float
    error: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """The estimate from at least one value; NaN where one is."""
        if any(map(math.isnan, values)):  # of an epoch that was not tested
            return cls(math.nan, None, len(values))
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), error, len(values))

    @property
    def indistinct(self) -> bool:
        """Whether the mean cannot be told from 0: it is within one standard error of it, or has no error."""
        return self.error is None or abs(self.mean) <= self.error

    @property
    def significant(self) -> bool:
        """Whether the 95 % confidence interval of Student's t leaves out 0."""
        if self.error is None:
            return False
        from scipy.special import stdtrit  # scikit-learn needs scipy, so it is there

        return abs(self.mean) > float(stdtrit(self.count - 1, (1 + CONFIDENCE) / 2)) * self.error

    def text(self, digits: int, scale: float = 1.0, sign: str = "") -> str:
        """Such as "1.516 ± 0.020", times `scale`; without an error there is the mean alone."""
        mean = f"{scale * self.mean:{sign}.{digits}f}"
        return mean if self.error is None else f"{mean} ± {scale * self.error:.{digits}f}"


@dataclass(frozen=True)
class FinishedRun:
    """A run to its end: its folder, settings, one row of metrics per epoch, and summary.json."""

    path: Path
    config: Config
    rows: list[dict[str, float]]
    summary: dict[str, Any]

    @property
    def half_loss(self) -> float | None:
        """Training loss (nats) at half of the epochs that were set; None if the run ended before."""
        half = half_epoch(self.config)
        return self.rows[half - 1]["train_loss"] if half <= len(self.rows) else None

    @property
    def final_loss(self) -> float | None:
        """Mean training loss (nats) of the last epoch."""
        return self.rows[-1]["train_loss"]

    @property
    def accuracy(self) -> float | None:
        """Test accuracy (a fraction) after the last epoch."""
        return self.rows[-1]["test_accuracy"]

    @property
    def step_seconds(self) -> list[float]:
        """Mean seconds of a step, for each epoch."""
        ends = [row["seconds"] for row in self.rows]
        steps = ends[-1] / self.summary["seconds_per_step"] / len(ends)
        return [(end - start) / steps for start, end in zip([0.0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing but the seed, by seed."""

    label: str
    runs: dict[int, FinishedRun]

    def estimate(self, measure: "Measure") -> Estimate | None:
        """Mean over the seeds; None if there is no value."""
        values = [value for value in map(measure.of, self.runs.values()) if value is not None]
        return Estimate.of(values) if values else None

    def difference(self, first: "RunGroup", measure: "Measure") -> Estimate | None:
        """Mean of this group's value less that of `first` at the same seed; None without a seed in common."""
        pairs = [
            (measure.of(run), measure.of(first.runs[seed])) for seed, run in self.runs.items() if seed in first.runs
        ]
        values = [mine - other for mine, other in pairs if mine is not None and other is not None]
        return Estimate.of(values) if values else None

    @property
    def step_seconds(self) -> float:
        """Median over all epochs of all runs."""
        return statistics.median(value for run in self.runs.values() for value in run.step_seconds)


@dataclass(frozen=True)
class Measure:
    """A figure of a run that is compared: its name, how it is read and written, and whether less is better."""

    name: str
    of: Callable[[FinishedRun], float | None]
    digits: int
    scale: float = 1.0
    unit: str = ""
    difference_unit: str = ""
    low_is_good: bool = True

    def value_text(self, value: Estimate | None) -> str:
        return "-" if value is None else value.text(self.digits, self.scale) + self.unit

    def difference_text(self, value: Estimate | None) -> str:
        return "-" if value is None else value.text(self.digits, self.scale, "+") + self.difference_unit


ACCURACY = Measure("test accuracy", lambda run: run.accuracy, 2, 100, " %", " points", low_is_good=False)
FINAL_LOSS = Measure("final training loss", lambda run: run.final_loss, 4)


def half_epoch(config: Config) -> int:
    return max(1, config.epochs // 2)


def read_run(folder: Path) -> FinishedRun:
    """A finished run. Errors: FsgError if it is none, is not finished, or cannot be read."""
    config = load_config(folder / "config.toml")
    summary = read_summary(folder)
    if summary is None:
        raise FsgError(f"{folder} is not finished: {shell_command('train', '--resume', folder)} continues it")
    return FinishedRun(folder, config, read_metrics(folder), summary)


def group_runs(runs: Sequence[FinishedRun]) -> list[RunGroup]:
    """Puts together what differs in the seed alone, and labels each group by its method and what sets it apart.

    Errors: FsgError for two runs that have the same settings and seed.
    """
    settings = [asdict(run.config) for run in runs]
    differing = [key for key in settings[0] if len({values[key] for values in settings}) > 1]
    shown = [field for field in fields(Config) if field.name in differing and field.name not in NO_DIFFERENCE]
    groups: dict[str, RunGroup] = {}
    for run, values in zip(runs, settings, strict=True):
        own = [f"{f.name}={values[f.name]}" for f in shown if f.name != "method" and values[f.name] != f.default]
        label = ":".join([run.config.method, *own])
        members = groups.setdefault(label, RunGroup(label, {})).runs
        if run.config.seed in members:
            twin = members[run.config.seed].path
            raise FsgError(f"{twin} and {run.path} have the same settings and the same seed: leave one out")
        members[run.config.seed] = run
    return list(groups.values())


def labelled_groups(folders: Mapping[str, Sequence[Path]]) -> list[RunGroup]:
    """The groups of finished runs whose labels are known, in their order."""
    return [RunGroup(label, {run.config.seed: run for run in map(read_run, paths)}) for label, paths in folders.items()]


def curve(group: RunGroup) -> Curve:
    """Means and standard errors over the seeds at every epoch that all runs of the group have."""
    epochs = list(zip(*(run.rows for run in group.runs.values()), strict=False))  # per epoch, one row of each run

    def over_epochs(name: str) -> list[tuple[float, float | None]]:
        estimates = [Estimate.of([row[name] for row in rows]) for rows in epochs]
        return [(estimate.mean, estimate.error) for estimate in estimates]

    return Curve(
        group.label,
        len(group.runs),
        epochs=[rows[0]["epoch"] for rows in epochs],
        seconds=[mean for mean, _ in over_epochs("seconds")],
        loss=over_epochs("train_loss"),
        accuracy=over_epochs("test_accuracy"),
    )


def measures(groups: Sequence[RunGroup]) -> list[Measure]:
    """The three figures that are compared, in the order of the tables' columns."""
    halves = {half_epoch(run.config) for group in groups for run in group.runs.values()}
    when = f"at epoch {halves.pop()}" if len(halves) == 1 else "at half the epochs"
    return [Measure(f"training loss {when}", lambda run: run.half_loss, 4), FINAL_LOSS, ACCURACY]


def of_one_dataset(groups: Sequence[RunGroup]) -> bool:
    """Whether all runs learnt the same data, so that their figures can be compared."""
    return len({run.config.dataset for group in groups for run in group.runs.values()}) == 1


def best_marks(groups: Sequence[RunGroup]) -> list[str]:
    """Who has the best test accuracy: "yes" if nobody comes close to its mean, else "maybe" for all who do.

    Close is who differs from it, in the mean over the seeds they share, by no more than chance may. Of different data
    sets nobody has the best.
    """
    if not of_one_dataset(groups):
        return [""] * len(groups)
    means = [estimate.mean if (estimate := group.estimate(ACCURACY)) else -math.inf for group in groups]
    best = groups[means.index(max(means))]

    def close(group: RunGroup) -> bool:
        difference = group.difference(best, ACCURACY)
        return group is best or difference is None or not difference.significant

    marks = [close(group) for group in groups]
    return [("yes" if sum(marks) == 1 else "maybe") if mark else "" for mark in marks]
