"""The training loop."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.average import AveragedModel
from fsg.training.checkpoint import (
    CHECKPOINT,
    DataInfo,
    load_initial_weights,
    model_for,
    predict,
    read_checkpoint,
    save_checkpoint,
)
from fsg.training.config import Config, load_config, save_config
from fsg.training.data import augment, batches, load_dataset
from fsg.training.layers import count_parameters
from fsg.training.methods import make_rule
from fsg.training.normalization import normalization
from fsg.training.objective import Objective, load_teacher
from fsg.training.record import Record, count_flips, signs

CHECK_EVERY = 50  # steps between looks at the loss, each of which waits for the device


def train(config: Config, folder: Path, console: Console) -> dict[str, Any]:
    """Trains until `config.epochs`, from the run's checkpoint if it has one, and returns the summary.

    `folder` must exist and hold config.toml, which takes on what has changed in `config`. Every epoch ends with a
    checkpoint; all randomness of an epoch follows from the seed and its number, so that a run that was interrupted or
    has stopped by itself ("stopped" in the summary: "patience", "max_minutes" or "") continues exactly. Errors:
    FsgError for data or weights that cannot be used and for a loss that is not finite; KeyboardInterrupt passes.
    """
    return Training(config, folder, console).run()


class Training:
    """A run: everything that an epoch needs, as it is at the start or was at the last checkpoint."""

    def __init__(self, config: Config, folder: Path, console: Console) -> None:
        self.started = time.monotonic()
        self.config, self.folder, self.console = config, folder, console
        self.device = set_up_machine(config)
        with console.status(f"reading {config.dataset}"):
            self.data = load_dataset(config.dataset, data_dir=config.data_dir or None)
        self.info = DataInfo(self.data.class_names, *normalization(config, self.data), self.data.shape)
        self.normalize = Normalizer(self.info, self.device)
        self.x_test = self.normalize(self.data.x_test)
        self.y_test = torch.from_numpy(self.data.y_test).to(self.device)
        self.steps_per_epoch = len(self.data.x_train) // config.batch_size
        self.record = Record(config, folder)
        resumed = (folder / CHECKPOINT).exists()

        torch.manual_seed(config.seed)
        self.model = model_for(config, self.info)
        if config.init and not resumed:
            load_initial_weights(self.model, Path(config.init))
        self._to_device(self.model)
        self.rule = make_rule(config, self.model)
        self.average = AveragedModel(self.model, config.ema) if config.ema else None
        self.steps, self.seconds, self.epoch_seconds = 0, 0.0, 0.0
        if resumed:
            self._restore()

        binary, floats = count_parameters(self.model)
        self.sizes = {
            "binary_parameters": binary,
            "float_parameters": floats,
            "hypernetwork_parameters": self.rule.hypernetwork_parameters,
        }
        self._print(
            f"{config.model} ({binary:,} one-bit and {floats:,} float parameters) by {config.method}"
            f" on {len(self.data.x_train):,} images of {config.dataset}, into {folder}"
            + (f", after epoch {len(self.record.rows)}" if resumed else "")
        )
        self.objective = Objective(config, self._teacher())

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
        return record.write_summary({"seconds_per_step": self.seconds / self.steps, **self.sizes, "stopped": stopped})

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and exported."""
        return self.average.model if self.average else self.model

    def _run_epoch(self, epoch: int) -> None:
        """Trains epoch number `epoch` (from 0), tests, and writes everything down."""
        start = time.monotonic()
        before = signs(self.model)
        train_loss, train_accuracy = self._train_epoch(epoch)
        self.seconds += time.monotonic() - start
        self.steps += self.steps_per_epoch
        test_loss, test_accuracy = evaluate(self.tested, self.x_test, self.y_test)
        self._check_finite(test_loss, epoch)
        flips, layer_flips = count_flips(before, signs(self.model))
        row = {
            "epoch": epoch + 1,
            "lr": learning_rate(self.config, epoch * self.steps_per_epoch, self.steps_per_epoch),
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "flips": flips,
            "seconds": round(self.seconds, 3),
        }
        layer_row = {"epoch": epoch + 1, **layer_flips}
        self._save([*self.record.rows, row], [*self.record.flips, layer_row])
        self.record.add(row, layer_row)
        total = self.config.epochs
        self._print(
            f"epoch {epoch + 1:>{len(str(total))}}/{total}  train loss {train_loss:.4f}"
            f"  test loss {test_loss:.4f}  test accuracy {test_accuracy:.2%}  flips {flips:.2%}"
        )
        self.epoch_seconds = time.monotonic() - start

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training images: mean loss and accuracy on them while they were learnt."""
        config, data, rule, per_epoch = self.config, self.data, self.rule, self.steps_per_epoch
        rng = np.random.default_rng([config.seed, epoch])
        torch.manual_seed(int(rng.integers(2**63)))
        self.model.train()
        losses, hits = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        indices = batches(len(data.x_train), config.batch_size, rng, drop_last=True)
        for step, index in enumerate(progress(self.console, indices, per_epoch, f"epoch {epoch + 1}"), self.steps):
            rule.lr = learning_rate(config, step, per_epoch)
            rule.progress = step / per_epoch / config.epochs
            images = data.x_train[index]
            if config.augment:
                images = augment(images, rng, pad=data.pad, flip=data.flip)
            inputs, labels = self.normalize(images), torch.from_numpy(data.y_train[index]).to(self.device)
            with rule.lookahead():
                logits = self.model(inputs)
                loss = self.objective(inputs, logits, labels)
            loss.backward()
            rule.step()
            if self.average:
                self.average.update(self.model, step + 1)
            losses += loss.detach()
            hits += (logits.detach().argmax(1) == labels).sum()
            if step % CHECK_EVERY == 0:
                self._check_finite(losses.item(), epoch)
        self._check_finite(losses.item(), epoch)
        return losses.item() / per_epoch, hits.item() / (per_epoch * config.batch_size)

    def _stop(self) -> str:
        """The setting that ends the run before its last epoch, or ""."""
        if self.config.patience and self.record.epochs_without_gain() >= self.config.patience:
            return "patience"
        end = time.monotonic() + self.epoch_seconds
        if self.config.max_minutes and self.epoch_seconds and end > self.started + 60 * self.config.max_minutes:
            return "max_minutes"  # after an epoch at least, so that resuming always gets on
        return ""

    def _check_finite(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            kept = f"; the checkpoint of epoch {epoch} is kept" if epoch else ""
            raise FsgError(
                f"the loss became {loss} in epoch {epoch + 1}{kept}: try a smaller --lr than {self.config.lr:g}"
            )

    def _teacher(self) -> nn.Module | None:
        if not self.config.teacher:
            return None
        teacher = load_teacher(self.config, self.data.num_classes, self.data.shape[0])
        self._to_device(teacher)
        self._print(f"the teacher's test accuracy is {evaluate(teacher, self.x_test, self.y_test)[1]:.2%}")
        return teacher

    def _save(self, rows: list[dict[str, float]], flips: list[dict[str, float]]) -> None:
        content = {
            "epoch": len(rows),
            "model": self.tested.state_dict(),
            "data": asdict(self.info),
            "rule": self.rule.state_dict(),
            "rows": rows,
            "flips": flips,
            "steps": self.steps,
            "seconds": self.seconds,
            "hypernetwork_parameters": self.rule.hypernetwork_parameters,
        }
        save_checkpoint(self.folder, content | ({"latent": self.model.state_dict()} if self.average else {}))

    def _restore(self) -> None:
        checkpoint = read_checkpoint(self.folder)
        try:
            steps = len(checkpoint["rows"]) * self.steps_per_epoch
            if (DataInfo(**checkpoint["data"]), checkpoint["steps"]) != (self.info, steps):
                data, run = self.config.dataset, self.folder
                raise FsgError(f"{data} does not hold what the run in {run} was trained on: give the same data")
            self.model.load_state_dict(checkpoint["latent" if self.average else "model"])
            self.tested.load_state_dict(checkpoint["model"])
            self.rule.load_state_dict(checkpoint["rule"])
            self.record.rows, self.record.flips = checkpoint["rows"], checkpoint["flips"]
            self.steps, self.seconds = checkpoint["steps"], checkpoint["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            path = self.folder / CHECKPOINT
            raise FsgError(f"{path} does not fit {self.folder / 'config.toml'}: train anew") from error

    def _keep_up_to_date(self) -> None:
        """Before an epoch: config.toml says what it is trained with, and no summary speaks of fewer epochs."""
        path = self.folder / "config.toml"
        if load_config(path) != self.config:
            save_config(self.config, path)
        (self.folder / "summary.json").unlink(missing_ok=True)

    def _to_device(self, model: nn.Module) -> None:
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def set_up_machine(config: Config) -> torch.device:
    """Sets the number of threads and how strict PyTorch is about repeatable algorithms; returns the device."""
    device = pick_device(config.device)
    threads = 1 if config.deterministic and device.type == "cpu" else config.threads
    if threads:
        torch.set_num_threads(threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what PyTorch asks for on CUDA
    torch.use_deterministic_algorithms(config.deterministic)
    return device


def pick_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here. Errors: FsgError where there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise FsgError("device cuda: PyTorch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


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


class Normalizer:
    """uint8 images [N, C, H, W] -> float32 tensor on the device, (pixel / 255 - mean) / std per channel."""

    def __init__(self, data: DataInfo, device: torch.device) -> None:
        self.device = device
        self.mean = torch.tensor(data.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(data.std, device=device).view(-1, 1, 1)

    def __call__(self, images: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(images).to(self.device)
        tensor = tensor.to(torch.float32, memory_format=torch.channels_last)
        return (tensor / 255 - self.mean) / self.std


def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) on normalised images."""
    logits = predict(model, images)
    accuracy = (logits.argmax(1) == labels).float().mean()
    return F.cross_entropy(logits, labels).item(), accuracy.item()


def progress(console: Console, items: Iterator[Any], total: int, text: str) -> Iterator[Any]:
    """Yields the items while a bar on the console shows how many have passed; the bar goes when they end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=text)
