"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from fsg import FsgError
from fsg.runtime.machine import cpu_name
from fsg.runtime.model.classes import CONFUSION, Matrix, write_confusion
from fsg.training.checkpoint import BEST, CHECKPOINT, OF_BEST, read_checkpoint, save_checkpoint
from fsg.training.compute import default_precision, forward_function, set_up_machine, threads_told
from fsg.training.config import Config, load_config, save_config
from fsg.training.data.augment import batches, described, mirror_images, with_augmentation
from fsg.training.data.feed import Feed, Normalizer
from fsg.training.data.load import load_dataset
from fsg.training.data.normalization import normalization
from fsg.training.data.sets import DataInfo, Dataset, Images, class_weights, options_of, shown, smaller
from fsg.training.distributed import Processes, joined
from fsg.training.launch import in_several_processes
from fsg.training.networks.constant import constant_signs, constant_signs_told
from fsg.training.networks.int8 import choose_ranges
from fsg.training.networks.layers import count_parameters
from fsg.training.networks.network import model_for
from fsg.training.networks.recalibrate import recalibrate
from fsg.training.objective import Objective, load_teacher
from fsg.training.probe import probe, require_same
from fsg.training.record import Record, best_row, count_flips, signs
from fsg.training.run import predict
from fsg.training.step import Learner, to_device

CHECK_EVERY = 50  # steps between looks at the loss, each of which waits for the device


Check = Callable[[nn.Module, tuple[int, int, int]], str]


def train(config: Config, folder: Path, console: Console, *, check: Check | None = None) -> dict[str, Any]:
    """Trains until `config.epochs`, from the run's checkpoint if it has one, and returns the summary.

    `folder` must exist and hold config.toml, which takes on what has changed in `config`. Every epoch ends with a
    checkpoint; all randomness of an epoch follows from the seed and its number, so that a run that was interrupted or
    has stopped by itself ("stopped" in the summary: "patience", "max_minutes" or "") continues exactly. Errors:
    FsgError for data or weights that cannot be used and for a loss that is not finite; KeyboardInterrupt passes. In
    several processes (see `distributed`), all return the same summary, and the first one prints and writes. `check` is
    called with the network and the shape of an image, unless `config` has no `export_check`: it raises FsgError for a
    network that cannot be exported, and returns what people should know.
    """
    if config.compile and in_several_processes():
        raise FsgError("--compile is for one process: leave it away, or train without torchrun")
    device = set_up_machine(config)
    with joined(device, config.batch_size) as processes, default_precision(config.precision) as dtype:
        if not processes.first:
            console = Console(quiet=True, force_terminal=False)
        return Training(config, folder, console, device, dtype, processes, check).run()


class Training:
    """A run: everything that an epoch needs, as it is at the start or was at the last checkpoint."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        console: Console,
        device: torch.device,
        dtype: torch.dtype,
        processes: Processes,
        check: Check | None = None,
    ) -> None:
        self.started = time.monotonic()
        self.config, self.folder, self.console = config, folder, console
        self.device, self.processes = device, processes
        with console.status(f"reading {config.dataset}") as status, processes.in_turn():
            where, options = config.data_dir or None, options_of(config)
            data = load_dataset(
                config.dataset, data_dir=where, progress=shown(status.update, config.dataset), options=options
            )
            data = smaller(data, config.train_images)
            if len(np.unique(data.y_train)) < 2:
                raise FsgError(f"{config.dataset}: all training images are of one class: add images of another")
            self.data = data = with_augmentation(data, augment=config.augment, crop=config.crop, flip=config.flip)
        self.info = DataInfo(data.class_names, *normalization(config, data), data.shape, data.split)
        self.batch_size = fitting_batch(config.batch_size, len(data.x_train), processes.count)
        self.steps_per_epoch = len(data.x_train) // self.batch_size
        self.record = Record(config, folder, writes=processes.first)
        resumed = (folder / CHECKPOINT).exists()

        limits = self._limits(check) if check and config.export_check and not resumed else ""
        init = "" if resumed else config.init
        self.learner = Learner(replace(config, batch_size=self.batch_size), self.info, device, processes, init=init)
        self.seconds, self.epoch_seconds = 0.0, 0.0
        if resumed:
            self._restore()

        binary, floats = count_parameters(self.learner.model)
        self.sizes = {
            "binary_parameters": binary,
            "float_parameters": floats,
            "hypernetwork_parameters": self.learner.rule.hypernetwork_parameters,
        }
        self._print(
            f"{config.model} ({binary:,} one-bit and {floats:,} float parameters) by {config.method}"
            f" on {len(data.x_train):,} images of {config.dataset}, into {folder}"
            + (f", after epoch {len(self.record.rows)}" if resumed else "")
            + (f"; batches of {self.batch_size}, as they are few" if self.batch_size < config.batch_size else "")
        )
        for line in filter(None, (threads_told(config), *told_of(data))):
            self._print(line)
        if limits:
            self._print(f"can be exported {limits}")
        if self.learner.notes:
            self._print(f"initial weights: {', '.join(self.learner.notes)}")
        if self.learner.memory_format is torch.contiguous_format:
            self._print("the forward needs contiguous values, so the faster order, channels last, is not used")
        normalize = Normalizer(self.info, device, dtype, self.learner.memory_format)
        if config.int8_aware and not resumed:
            choose_ranges(self.learner.model, normalize(some(data)))
        if not resumed and (told := constant_signs_told(constant_signs(self.learner.model, normalize(some(data))))):
            self._print(told)
        self.feed = Feed(data, normalize, processes)
        part = processes.part(len(data.x_test))
        self.x_test, self.y_test = normalize(data.x_test[part]), torch.from_numpy(data.y_test[part]).to(device)
        weights = class_weights(config, data)
        if weights:
            self._print(f"all classes count alike: weights of {min(weights):.3g} to {max(weights):.3g} in the loss")
        self.learner.objective = Objective(config, self._teacher() if config.teacher else None, weights)

    def run(self) -> dict[str, Any]:
        """Trains the epochs that are left and writes the results."""
        record, stopped = self.record, ""
        try:
            while len(record.rows) < self.config.epochs:
                stopped = self._stop()
                if stopped:
                    break
                self._keep_up_to_date()
                self._run_epoch(len(record.rows))
        except BaseException:
            with suppress(FsgError):  # nothing may hide what went wrong
                record.write_results()
            raise
        finally:
            record.close()
        record.write_results()
        machine = {"machine": cpu_name(), "threads": torch.get_num_threads()}
        speed = {"seconds_per_step": self.seconds / self.learner.steps}
        summary = record.summary({**speed, **self.sizes, **machine, "stopped": stopped})
        if stopped != "max_minutes":  # such a run has not ended
            record.write_summary(summary)
        return summary

    def _run_epoch(self, epoch: int) -> None:
        """Trains epoch number `epoch` (from 0), tests, and writes everything down."""
        start = time.monotonic()
        before = signs(self.learner.model)
        train_loss, train_accuracy = self._train_epoch(epoch)
        test_loss, test_accuracy, matrix = math.nan, math.nan, None
        every = 1 if self.config.max_minutes else self.config.test_every  # who may stop at any epoch needs its test
        tested = epoch + 1 == self.config.epochs or (epoch + 1) % every == 0
        if self.config.recalibrate and epoch + 1 == self.config.epochs:
            self._recalibrate(epoch)
        if tested:
            test_loss, test_accuracy, matrix = self._test(self.learner.tested)
            self._check_finite(test_loss, epoch)
        flips, layer_flips = count_flips(before, signs(self.learner.model))
        row = {
            "epoch": epoch + 1,
            "seconds": self.seconds,
            "lr": learning_rate(self.config, epoch * self.steps_per_epoch, self.steps_per_epoch),
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "flips": flips,
        }
        layer_row = {"epoch": epoch + 1, **layer_flips}
        if self.processes.first:
            if matrix is not None:
                write_confusion(self.folder / CONFUSION, matrix, self.info.class_names)
            self._save([*self.record.rows, row], [*self.record.flips, layer_row])
        self.record.add(row, layer_row)
        total = self.config.epochs
        self._print(
            f"epoch {epoch + 1:>{len(str(total))}}/{total}  train loss {train_loss:.4f}"
            + (f"  test loss {test_loss:.4f}  test accuracy {test_accuracy:.2%}" if tested else "")
            + f"  flips {flips:.2%}"
        )
        self.epoch_seconds = time.monotonic() - start

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training images: mean loss and accuracy on them while they were learnt."""
        config, learner, processes, per_epoch = self.config, self.learner, self.processes, self.steps_per_epoch
        rng = epoch_randomness(config.seed, epoch)  # "rng" in the checkpoint before
        learner.equalize()
        learner.model.train()
        learner.rule.steps = per_epoch * config.epochs
        start = time.perf_counter()
        losses, hits = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        indices = batches(len(self.data.x_train), self.batch_size, rng, drop_last=True)
        for index in progress(self.console, indices, per_epoch, f"epoch {epoch + 1}"):
            learner.rule.lr = learning_rate(config, learner.steps, per_epoch)
            learner.rule.progress = learner.steps / per_epoch / config.epochs
            images, labels = self.feed(index, rng)
            loss, logits = learner.step(images, labels)
            losses += loss
            hits += (logits.argmax(1) == labels).sum()
            if learner.steps % CHECK_EVERY == 0:
                self._check_finite(losses.item(), epoch)
        train_loss = processes.total(losses).item() / processes.count / per_epoch
        self.seconds += time.perf_counter() - start
        self._check_finite(train_loss, epoch)
        return train_loss, processes.total(hits).item() / (per_epoch * self.batch_size)

    def _recalibrate(self, epoch: int) -> None:
        """Takes the tested network's batch statistics anew over whole batches of training images without changes."""
        rng = np.random.default_rng([self.config.seed, epoch, 1])
        indices = batches(len(self.data.x_train), self.batch_size, rng, drop_last=True)
        count = math.ceil(self.config.recalibrate / self.batch_size)
        part = self.processes.part(self.batch_size)
        images = (self.feed.normalize(self.data.x_train[index[part]]) for index in islice(indices, count))
        recalibrate(self.learner.tested, images)

    def _stop(self) -> str:
        """The setting that ends the run before its last epoch, or ""."""
        if self.config.patience and self.record.epochs_without_gain() >= self.config.patience:
            return "patience"
        if self.config.max_minutes and self.epoch_seconds:  # after an epoch at least, so that resuming always gets on
            late = time.monotonic() + self.epoch_seconds > self.started + 60 * self.config.max_minutes
            if self.processes.total(torch.tensor(float(late))):
                return "max_minutes"
        return ""

    def _check_finite(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            kept = f"; the checkpoint of epoch {epoch} is kept" if epoch else ""
            raise FsgError(
                f"the loss became {loss} in epoch {epoch + 1}{kept}: try a smaller --lr than {self.config.lr:g}"
            )

    def _teacher(self) -> Callable[[Tensor], Tensor]:
        teacher = load_teacher(self.config, self.data.num_classes, self.data.shape)
        to_device(teacher, self.device, self.data.shape)
        accuracy = self._test(teacher)[1]
        self._print(f"the teacher's test accuracy is {accuracy:.2%}")
        return forward_function(teacher, self.device, precision=self.config.precision, compile=False)

    def _test(self, model: nn.Module) -> tuple[float, float, Matrix]:
        """Mean cross-entropy, accuracy (a fraction) and confusion matrix on the test images."""
        return evaluate(model, self.x_test, self.y_test, self.processes)

    def _limits(self, check: Check) -> str:
        """What `check` says of the network, as it is on one device and in one process."""
        model = model_for(self.config, self.info)
        try:
            return check(model, self.data.shape)
        except FsgError as error:
            raise FsgError(f"{error}; --no-export-check trains it all the same") from error

    def _save(self, rows: list[dict[str, float]], flips: list[dict[str, float]]) -> None:
        content = {
            "epoch": len(rows),
            "rng": [self.config.seed, len(rows)],  # what all randomness of the next epoch follows from
            "data": asdict(self.info),
            "rows": rows,
            "flips": flips,
            "seconds": self.seconds,
            "hypernetwork_parameters": self.learner.rule.hypernetwork_parameters,
            "probe": probe(self.learner.tested, self.info.shape),
            **self.learner.state_dict(),
        }
        if best_row(rows) is rows[-1]:  # first: an epoch that the checkpoint has is not run again
            save_checkpoint(self.folder, {name: content[name] for name in OF_BEST}, BEST)
        save_checkpoint(self.folder, content)

    def _restore(self) -> None:
        checkpoint = read_checkpoint(self.folder)
        try:
            steps = len(checkpoint["rows"]) * self.steps_per_epoch
            if (DataInfo(**checkpoint["data"]), checkpoint["steps"]) != (self.info, steps):
                data, run = self.config.dataset, self.folder
                raise FsgError(f"{data} does not hold what the run in {run} was trained on: give the same data")
            self.learner.load_state_dict(checkpoint)
            expected = checkpoint.get("probe")
            require_same(self.learner.tested, self.info.shape, expected, self.folder, self.config.model)
            self.record.rows, self.record.flips = checkpoint["rows"], checkpoint["flips"]
            self.seconds = checkpoint["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            path = self.folder / CHECKPOINT
            raise FsgError(f"{path} does not fit {self.folder / 'config.toml'}: train anew") from error

    def _keep_up_to_date(self) -> None:
        """Before an epoch: config.toml says what it is trained with, and no summary speaks of fewer epochs."""
        path = self.folder / "config.toml"
        if self.processes.first and load_config(path) != self.config:
            save_config(self.config, path)
        self.record.remove_summary()

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def told_of(data: Dataset) -> list[str]:
    """What a person should see of the data before they train on it, in at most three lines."""
    counts = np.bincount(data.y_train, minlength=data.num_classes)
    spread = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    missing = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
    channels, height, width = data.shape
    lines = [
        f"{data.num_classes} classes ({listed(data.class_names)}) with {spread} training images each"
        + (f" (none of {listed(missing)})" if missing else "")
        + f", {len(data.x_test):,} test images, all of {width}x{height} pixels and {channels}"
        + f" channel{'s' * (channels > 1)}; {described(data)}"
    ]
    if data.notes:
        lines.append("; ".join(data.notes))
    if data.flip and (pairs := mirror_images(data)):
        named = ", ".join(f"{first} and {second}" for first, second in pairs[:3])
        lines.append(
            f"warning: mirrored, some classes look like others ({named}); --no-flip if they are to be told apart"
        )
    return lines


def listed(names: Sequence[str]) -> str:
    """A few names."""
    return ", ".join(names if len(names) <= 4 else (*names[:2], "...", names[-1]))


def some(data: Dataset) -> Images:
    """Up to 64 of the training images, from all over the data set."""
    return data.x_train[np.linspace(0, len(data.x_train) - 1, min(64, len(data.x_train))).astype(int)]


def fitting_batch(wanted: int, images: int, processes: int) -> int:
    """The batch size that was wanted; where there are fewer images, a quarter of them, which all processes can share.

    Errors: FsgError where there are not even two for each process.
    """
    if images >= wanted:
        return wanted
    size = max(images // 4, 2) // processes * processes
    if size < max(2, processes) or images < size:
        raise FsgError(f"{images} training images are too few to train on: add some")
    return size


def epoch_randomness(seed: int, epoch: int) -> np.random.Generator:
    """The generator that all randomness of an epoch follows from; torch's own is set by it."""
    rng = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(rng.integers(2**63)))
    return rng


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over all epochs.

    It rises in equal parts to `lr` over the steps of `warmup_epochs`; a cosine falls to 0 over those that are left.
    """
    epoch = step / steps_per_epoch
    warmup = config.warmup_epochs
    if epoch < warmup:
        return config.lr * min(1.0, (step + 1) / (warmup * steps_per_epoch))
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (config.epochs - warmup)))
    return config.lr * (0.1 ** (int(epoch) // config.step_epochs) if config.schedule == "step" else 1.0)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, processes: Processes) -> tuple[float, float, Matrix]:
    """Mean cross-entropy, accuracy (a fraction) and confusion matrix on normalised images, of which each process has a
    part."""
    logits = predict(model, images)
    classes = logits.shape[1]
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    counts = torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).double()
    loss_sum, *cells = processes.total(torch.cat([loss[None], counts])).tolist()
    matrix = np.array(cells, np.int64).reshape(classes, classes)
    count = int(matrix.sum())
    return loss_sum / count, int(matrix.trace()) / count, matrix


def progress(console: Console, items: Iterator[Any], total: int, text: str) -> Iterator[Any]:
    """Yields the items while a bar on the console shows how many have passed; the bar goes when they end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=text)
