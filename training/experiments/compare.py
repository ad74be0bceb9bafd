"""What finished runs say about the methods that trained them, as tables and files.

    compare.md     tables and what may be read from them     compare.csv    one row per run and epoch
    compare.png    loss and accuracy over epochs and seconds

Every accuracy is that of a run's last epoch; nothing is chosen by looking at the test images.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg import make_folder, replacing
from fsg.runtime.tables import table, titled
from fsg.training.config import Config
from fsg.training.experiments.plots import plot_comparison
from fsg.training.experiments.results import (
    NO_DIFFERENCE,
    Estimate,
    Measure,
    RunGroup,
    best_marks,
    curve,
    measures,
    of_one_dataset,
)

if TYPE_CHECKING:
    from rich.console import Group


def write_comparison(groups: Sequence[RunGroup], folder: Path) -> None:
    """Writes compare.md, compare.csv and compare.png. Errors: FsgError where they cannot be written."""
    make_folder(folder)
    with replacing(folder / "compare.csv") as temporary:
        temporary.write_text(csv_text(groups), encoding="utf-8")
    facts = describe(groups)
    curves = [curve(group) for group in groups]
    plot_comparison(curves, folder / "compare.png", f"{headline(facts)}, seeds {facts['seeds']}")
    with replacing(folder / "compare.md") as temporary:
        temporary.write_text(markdown(groups), encoding="utf-8")


def csv_text(groups: Sequence[RunGroup]) -> str:
    """One row per run and epoch: the group's label, seed and folder of the run, and the columns of its metrics.csv."""
    runs = [(group.label, seed, run) for group in groups for seed, run in group.runs.items()]
    columns = dict.fromkeys(name for _, _, run in runs for name in run.rows[0])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=["method", "seed", "run", *columns], lineterminator="\n")
    writer.writeheader()
    for label, seed, run in runs:
        for row in run.rows:
            writer.writerow({"method": label, "seed": seed, "run": str(run.path), **row, "epoch": int(row["epoch"])})
    return text.getvalue()


def describe(groups: Sequence[RunGroup]) -> dict[str, str]:
    """What was trained, where: each fact once, or all its values where the runs differ."""
    runs = [run for group in groups for run in group.runs.values()]

    def every(values: list[Any]) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))

    facts = {
        "data set": every([run.config.dataset for run in runs]),
        "model": every([run.config.model for run in runs]),
        "epochs": every([run.config.epochs for run in runs]),
        "seeds": every(sorted({run.config.seed for run in runs})),
        "machine": every([run.summary.get("machine", "not recorded") for run in runs]),
        "threads": every([run.summary.get("threads", run.config.threads or "not recorded") for run in runs]),
    }
    named = (*NO_DIFFERENCE, "method", "dataset", "model", "epochs", "threads")
    common = {
        field.name: getattr(runs[0].config, field.name)
        for field in fields(Config)
        if field.name not in named and len({getattr(run.config, field.name) for run in runs}) == 1
    }
    changed = [f"{name} = {value}" for name, value in common.items() if value != getattr(Config, name)]
    facts["other settings"] = ", ".join(changed) or "the defaults"
    return facts


def headline(facts: Mapping[str, str]) -> str:
    """Such as "resnet20 on cifar10", without the folder of a data set."""
    return f"{facts['model']} on {Path(facts['data set']).name}"


def results(groups: Sequence[RunGroup]) -> list[list[str]]:
    """The table of results, its first row the heads."""
    columns = measures(groups)
    heads = ["method", "runs", *(measure.name for measure in columns)]
    table = [[*heads, "best?", "seconds per step", "ratio", "hypernetwork parameters"]]
    for group, best in zip(groups, best_marks(groups), strict=True):
        sizes = dict.fromkeys(f"{run.summary.get('hypernetwork_parameters', 0):,}" for run in group.runs.values())
        figures = [measure.value_text(group.estimate(measure)) for measure in columns]
        ratio = group.step_seconds / groups[0].step_seconds
        speed = [f"{group.step_seconds:.3g}", f"{ratio:.2f}"]
        table.append([group.label, str(len(group.runs)), *figures, best, *speed, " or ".join(sizes)])
    return table


def paired(groups: Sequence[RunGroup]) -> list[list[str]]:
    """The table of differences against the first group at the same seeds, its first row the heads."""
    table = [["method", "figure", "seeds", f"less that of {groups[0].label}", "reading"]]
    for group in groups[1:]:
        for measure in measures(groups):
            difference = group.difference(groups[0], measure)
            count = 0 if difference is None else difference.count
            figure = measure.difference_text(difference)
            table.append([group.label, measure.name, str(count), figure, reading(difference, measure)])
    return table


def reading(difference: Estimate | None, measure: Measure) -> str:
    """What a mean difference allows to say, in words that are never bolder than the data."""
    if difference is None:
        return "no seed in common: nothing can be said"
    good = (difference.mean < 0) == measure.low_is_good
    direction = "better" if good else "worse"
    if difference.error is None:
        return (
            f"{direction if difference.mean else 'the same'} on one seed, which has no error: nothing can be concluded"
        )
    if difference.indistinct:
        return "not distinguishable: within its standard error"
    if difference.significant:
        return f"{direction}: the 95 % confidence interval leaves out 0"
    return f"{direction}, but not beyond chance: the 95 % confidence interval holds 0"


def warnings(groups: Sequence[RunGroup]) -> list[str]:
    """What stands above the results because it decides what they may be read as."""
    facts, lines = describe(groups), []
    if not of_one_dataset(groups):
        lines.append(
            f"Warning: the runs are of different data sets ({facts['data set']}): their losses and accuracies cannot be"
            " compared, and none is called the best."
        )
    if len({run.config.model for group in groups for run in group.runs.values()}) > 1:
        lines.append(
            f"Warning: the runs are of different networks ({facts['model']}): what differs may be theirs, not the"
            " methods'."
        )
    return lines


def notes(groups: Sequence[RunGroup]) -> list[str]:
    """What must be known to read the tables."""
    runs = [run for group in groups for run in group.runs.values()]
    lines = [
        "± is the standard error of the mean over the seeds; one seed has none.",
        "Test accuracy is that of the last epoch, not the best one; in differences its unit is the percentage point.",
        'best?: by test accuracy; "maybe" for all that the seeds cannot tell from the highest (the confidence'
        " interval of the paired difference holds 0, or there is none).",
        f"Seconds per step: median over the epochs, without evaluation; ratio: to {groups[0].label}. They can be"
        " compared only if nothing else ran on the machine meanwhile; fsg bench-train measures in turns.",
        "Confidence intervals are Student's t, each for one difference: of twenty that leave out 0, chance alone"
        " explains one.",
    ]
    machines = {(run.summary.get("machine"), run.summary.get("threads"), run.config.device) for run in runs}
    if len(machines) > 1:
        lines.append("The runs are of different machines or thread counts: their seconds cannot be compared.")
    if any(len(run.rows) < run.config.epochs for run in runs):
        lines.append("Some runs ended before the epochs that were set.")
    return lines


def markdown(groups: Sequence[RunGroup]) -> str:
    """The whole of compare.md."""
    facts = describe(groups)
    parts = [f"# {', '.join(group.label for group in groups)}: {headline(facts)}"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    parts += warnings(groups)
    parts += ["## Results", _markdown_table(results(groups))]
    parts.append("![Loss and accuracy over epochs and seconds](compare.png)")
    if len(groups) > 1 and of_one_dataset(groups):
        parts += [f"## Differences from {groups[0].label}, seed by seed", _markdown_table(paired(groups))]
        parts.append("\n".join(f"- {line}" for line in sentences(groups)))
    parts += ["## Notes", "\n".join(f"- {line}" for line in notes(groups))]
    return "\n\n".join(parts) + "\n"


def sentences(groups: Sequence[RunGroup]) -> list[str]:
    """The table of differences in plain words, one line per group but the first; none where data sets differ."""
    lines: list[str] = []
    if not of_one_dataset(groups):
        return lines
    for group in groups[1:]:
        readings: dict[str, list[str]] = {}
        for measure in measures(groups):
            readings.setdefault(reading(group.difference(groups[0], measure), measure), []).append(measure.name)
        said = "; ".join(f"{' and '.join(names)} {text}" for text, names in readings.items())
        lines.append(f"{group.label} against {groups[0].label}: {said}.")
    return lines


def _markdown_table(rows: list[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(rows[0]), line(["---"] * len(rows[0])), *map(line, rows[1:])])


def comparison_table(groups: Sequence[RunGroup]) -> "Group":
    """The results and what may be read from them, for the terminal."""
    head, *body = results(groups)
    made = table(head, body, left=("method", "best?"), wrap=head)
    return titled(" ".join(warnings(groups)), made, [*sentences(groups), *notes(groups)[:2]])
