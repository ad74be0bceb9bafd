"""The training loop."""

import csv
import io
import json
import math
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

from fsg import FsgError, replacing
from fsg.runtime.environment import cpu_name
from fsg.training.arithmetic import default_precision, forward_function
from fsg.training.checkpoint import (
    CHECKPOINT,
    DataInfo,
    load_initial_weights,
    model_for,
    predict,
    read_checkpoint,
    save_checkpoint,
)
from fsg.training.config import Config
from fsg.training.data import batches, load_dataset
from fsg.training.distributed import Processes, joined, use_whole_batch_norm
from fsg.training.feed import Feed, Normalizer
from fsg.training.launch import in_several_processes
from fsg.training.layers import count_parameters
from fsg.training.methods import make_rule
from fsg.training.plots import plot_curves


def train(config: Config, folder: Path, console: Console) -> dict[str, Any]:
    """Trains until `config.epochs`, from the run's checkpoint if it has one, and returns the summary.

    `folder` must exist and hold config.toml. Every epoch ends with a checkpoint; all randomness of an epoch follows
    from the seed and its number, so that an interrupted run continues exactly. Errors: FsgError for data or weights
    that cannot be used and for a loss that is not finite; KeyboardInterrupt passes. In several processes (see
    `distributed`), all return the same summary, and the first one prints and writes.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    if config.compile and in_several_processes():
        raise FsgError("--compile is for one process: leave it away, or train without torchrun")
    with joined(device, config.batch_size) as processes, default_precision(config.precision) as dtype:
        if not processes.first:
            console = Console(quiet=True, force_terminal=False)
        return _train(config, folder, console, device, dtype, processes)


def _train(
    config: Config, folder: Path, console: Console, device: torch.device, dtype: torch.dtype, processes: Processes
) -> dict[str, Any]:
    with console.status(f"reading {config.dataset}"), processes.in_turn():
        data = load_dataset(config.dataset, data_dir=config.data_dir or None)
    info = DataInfo(data.class_names, data.mean, data.std, data.shape)

    torch.manual_seed(config.seed)
    model = model_for(config, info)
    if config.init:
        load_initial_weights(model, Path(config.init))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_whole_batch_norm(model, processes)
    network = forward_function(model, device, precision=config.precision, compile=config.compile)
    rule = make_rule(config, model)

    rows: list[dict[str, float]] = []
    steps, seconds = 0, 0.0
    if (folder / CHECKPOINT).exists():
        checkpoint = read_checkpoint(folder)
        model.load_state_dict(checkpoint["model"])
        rule.load_state_dict(checkpoint["rule"])
        rows, steps, seconds = checkpoint["rows"], checkpoint["steps"], checkpoint["seconds"]
        del checkpoint

    binary, floats = count_parameters(model)
    console.print(
        f"{config.model} ({binary:,} one-bit and {floats:,} float parameters) by {config.method}"
        f" on {len(data.x_train):,} images of {config.dataset}, into {folder}"
        + (f", after epoch {len(rows)}" if rows else ""),
        highlight=False,
        soft_wrap=True,
    )
    normalize = Normalizer(info, device, dtype)
    feed = Feed(data, normalize, processes, augment=config.augment)
    part = processes.part(len(data.x_test))
    x_test, y_test = normalize(data.x_test[part]), torch.from_numpy(data.y_test[part]).to(device)
    steps_per_epoch = len(data.x_train) // config.batch_size

    try:
        for epoch in range(len(rows), config.epochs):
            rng = np.random.default_rng([config.seed, epoch])
            torch.manual_seed(int(rng.integers(2**63)))
            processes.equalize([model.state_dict(), rule.state_dict()])  # devices may round differently
            model.train()
            start = time.perf_counter()
            losses, hits = torch.zeros((), device=device), torch.zeros((), device=device)
            indices = batches(len(data.x_train), config.batch_size, rng, drop_last=True)
            for step, index in enumerate(progress(console, indices, steps_per_epoch, f"epoch {epoch + 1}")):
                rule.lr = learning_rate(config, epoch + step / steps_per_epoch)
                rule.progress = (epoch + step / steps_per_epoch) / config.epochs
                images, labels = feed(index, rng)
                with rule.lookahead():
                    logits = network(images)
                    loss = F.cross_entropy(logits, labels)
                loss.backward()
                processes.average(rule.gradients())
                rule.step()
                losses += loss.detach()
                hits += (logits.detach().argmax(1) == labels).sum()
            seconds += time.perf_counter() - start
            steps += steps_per_epoch
            train_loss = processes.total(losses).item() / processes.count / steps_per_epoch
            train_hits = processes.total(hits).item()
            if not math.isfinite(train_loss):
                raise FsgError(
                    f"the loss became {train_loss} in epoch {epoch + 1}; the checkpoint of epoch {epoch} is kept:"
                    f" try a smaller --lr than {config.lr:g}"
                )
            test_loss, test_accuracy = evaluate(model, x_test, y_test, processes)
            row = {
                "epoch": epoch + 1,
                "seconds": seconds,
                "lr": learning_rate(config, epoch),
                "train_loss": train_loss,
                "train_accuracy": train_hits / (steps_per_epoch * config.batch_size),
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
            }
            if processes.first:
                save_checkpoint(
                    folder,
                    {
                        "epoch": epoch + 1,
                        "model": model.state_dict(),
                        "data": asdict(info),
                        "rule": rule.state_dict(),
                        "rows": [*rows, row],
                        "steps": steps,
                        "seconds": seconds,
                        "hypernetwork_parameters": rule.hypernetwork_parameters,
                    },
                )
            rows.append(row)
            if processes.first:
                write_metrics(folder / "metrics.csv", rows)
            console.print(
                f"epoch {epoch + 1:>{len(str(config.epochs))}}/{config.epochs}  train loss {row['train_loss']:.4f}"
                f"  test loss {test_loss:.4f}  test accuracy {test_accuracy:.2%}",
                highlight=False,
                soft_wrap=True,
            )
    except BaseException:
        if processes.first:
            with suppress(FsgError):  # nothing may hide what went wrong
                write_results(config, folder, rows)
        raise

    summary = {
        "method": config.method,
        "model": config.model,
        "dataset": config.dataset,
        "epochs": config.epochs,
        "seed": config.seed,
        "activation_bits": config.activation_bits,
        "train_loss": rows[-1]["train_loss"],
        "test_accuracy": rows[-1]["test_accuracy"],
        "seconds_per_step": seconds / steps,
        "binary_parameters": binary,
        "float_parameters": floats,
        "hypernetwork_parameters": rule.hypernetwork_parameters,
        "machine": cpu_name(),
        "threads": torch.get_num_threads(),
    }
    if processes.first:
        write_results(config, folder, rows)
        with replacing(folder / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def pick_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here. Errors: FsgError where there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise FsgError("device cuda: PyTorch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def learning_rate(config: Config, epoch: float) -> float:
    """The learning rate at a point of the run, `epoch` counted from 0 and fractional within an epoch."""
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    return config.lr * 0.1 ** (int(epoch) // config.step_epochs)


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, processes: Processes) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) on normalised images, of which each process has a part."""
    logits = predict(model, images)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = (logits.argmax(1) == labels).sum()
    sums = torch.stack([loss, hits, torch.tensor(len(labels), device=loss.device)]).double()
    loss_sum, hit_sum, count = processes.total(sums).tolist()
    return loss_sum / count, hit_sum / count


def progress(console: Console, items: Iterator[Any], total: int, text: str) -> Iterator[Any]:
    """Yields the items while a bar on the console shows how many have passed; the bar goes when they end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=text)


def write_results(config: Config, folder: Path, rows: list[dict[str, float]]) -> None:
    """Writes metrics.csv and curves.png of the epochs so far, if there are any."""
    if rows:
        write_metrics(folder / "metrics.csv", rows)
        plot_curves(rows, folder / "curves.png", f"{config.model}, {config.method}, {config.dataset}")


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    """Writes metrics.csv: one row per epoch; seconds spent training so far, losses in nats, accuracies as fractions."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue())
