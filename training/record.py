"""What a run writes down about its training: tables, curves, TensorBoard events and the summary."""

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fsg import replacing
from fsg.training.config import Config
from fsg.training.curves import plot_curves
from fsg.training.networks.layers import binary_layers

Row = dict[str, float]


class Record:
    """The epochs so far.

    `rows` are those of metrics.csv: epoch, lr at its start, losses in nats (the training loss is the one descended),
    accuracies and flips as fractions, seconds of training since the start. `flips` are those of flips.csv: the share
    of each binary layer's weights whose sign is another at the epoch's end than at its start. Test figures of epochs
    that were not tested are NaN. Without `writes`, it only remembers.
    """

    def __init__(self, config: Config, folder: Path, *, writes: bool = True) -> None:
        self.config, self.folder, self.writes = config, folder, writes
        self.rows: list[Row] = []
        self.flips: list[Row] = []
        self._events: Any = None
        if config.tensorboard:
            _import_tensorboard()  # that it is missing shows now, not after an epoch

    def add(self, row: Row, flips: Row) -> None:
        """Takes in an epoch, its rows of both tables, and writes them anew."""
        self.rows.append(row)
        self.flips.append(flips)
        if self.writes:
            self.write_tables()
        if self.writes and self.config.tensorboard:
            self._write_events(row, flips)

    def write_tables(self) -> None:
        write_csv(self.folder / "metrics.csv", self.rows)
        write_csv(self.folder / "flips.csv", self.flips)

    def write_results(self) -> None:
        """Writes the tables and curves.png of the epochs so far, if there are any."""
        if self.rows and self.writes:
            self.write_tables()
            title = f"{self.config.model}, {self.config.method}, {Path(self.config.dataset).name}"
            plot_curves(self.rows, self.folder / "curves.png", title)

    def summary(self, more: dict[str, Any]) -> dict[str, Any]:
        """What summary.json tells of the epochs so far, and what only the caller knows."""
        last, best = self.rows[-1], best_row(self.rows)
        assert best is not None
        names = ("method", "variant", "model", "dataset", "seed", "activation_bits")
        return {
            **{name: getattr(self.config, name) for name in names},
            "epochs": len(self.rows),
            "train_loss": last["train_loss"],
            "test_accuracy": last["test_accuracy"],
            "best_test_accuracy": best["test_accuracy"],
            "best_epoch": best["epoch"],
            "seconds": last["seconds"],
            **more,
        }

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, by which others see that the run has ended."""
        if self.writes:
            with replacing(self.folder / "summary.json") as temporary:
                temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    def remove_summary(self) -> None:
        """Before the run goes on: no summary may speak of fewer epochs."""
        if self.writes:
            (self.folder / "summary.json").unlink(missing_ok=True)

    def epochs_without_gain(self) -> int:
        """How many epochs have passed since the one with the lowest test loss; 0 if the last one was not tested."""
        if not self.rows or not was_tested(self.rows[-1]):
            return 0
        best = min(filter(was_tested, self.rows), key=lambda row: row["test_loss"])
        return int(self.rows[-1]["epoch"] - best["epoch"])

    def _write_events(self, row: Row, flips: Row) -> None:
        epoch = int(row["epoch"])
        if self._events is None:  # what an interrupted run may have written beyond its checkpoint is void
            self._events = _import_tensorboard().SummaryWriter(str(self.folder), purge_step=epoch)
        shares = {f"flips/{name}": share for name, share in flips.items()}
        for name, value in {**row, **shares}.items():
            part, _, quantity = name.partition("_")
            if not name.endswith("epoch") and math.isfinite(value):
                self._events.add_scalar(f"{quantity}/{part}" if part in ("train", "test") else name, value, epoch)
        self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _import_tensorboard() -> Any:
    # Where TensorFlow is installed TensorBoard loads it, seconds and log lines, only to write a file. It looks for
    # this module to leave that.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    import torch.utils.tensorboard

    return torch.utils.tensorboard


def best_row(rows: Sequence[Row]) -> Row | None:
    """The first epoch with the highest test accuracy, if one was tested."""
    return max(filter(was_tested, rows), key=lambda row: row["test_accuracy"], default=None)


def was_tested(row: Row) -> bool:
    return math.isfinite(row["test_loss"])


def signs(model: nn.Module) -> dict[str, Tensor]:
    """Which weights of each binary layer stand for +1: bool tensors of the weights' shapes."""
    with torch.no_grad():
        return {name: layer.binary_weight() > 0 for name, layer in binary_layers(model).items()}


def count_flips(before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[float, Row]:
    """Share of weights whose sign has changed, among all and in each layer. Both are 0 where there are none."""
    changed = {name: int((before[name] ^ after[name]).sum()) for name in before}
    total = sum(sign.numel() for sign in before.values())
    shares = {name: count / max(before[name].numel(), 1) for name, count in changed.items()}
    return sum(changed.values()) / max(total, 1), shares


def write_csv(path: Path, rows: list[Row]) -> None:
    """Writes rows with the same keys as a table with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
