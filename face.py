"""The three commands as functions: `fsg.train`, `fsg.export` and `fsg.bench`. Heavy imports wait inside them."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg import FsgError, installed, within_memory

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from fsg.training.config import Config

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Trained(os.PathLike[str]):
    """A finished training; whatever takes the folder of a run takes this, too.

    Attributes:
        path: the folder of the run.
        summary: what its summary.json says.
    """

    path: Path
    summary: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """On the test images, after the last epoch: a fraction."""
        return float(self.summary["test_accuracy"])

    def __fspath__(self) -> str:
        return str(self.path)


@installed()
def train(
    dataset: str | None = None,
    *,
    out: Source | None = None,
    resume: Source | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Trained:
    """Trains a binary network into a run folder, as `fsg train` does.

    Args:
        dataset: "digits" and so on, "folder:PATH" or "npz:PATH".
        out: folder of the run; by default an unused one under ./runs.
        resume: folder of a run to continue instead, with the settings that may change.
        quiet: prints nothing.
        **settings: as in config.toml, such as epochs=20 or model="resnet32".

    Raises:
        FsgError: unknown settings, data that cannot be used, a folder that holds a run already.
    """
    from fsg.terminal import make_console
    from fsg.training.config import Config, load_config, parse_settings, resume_config, settle
    from fsg.training.data.load import check_spec
    from fsg.training.folder import new_run, run_lock

    if dataset is not None:
        settings["dataset"] = dataset
    texts = {name: os.fspath(value) for name, value in settings.items() if isinstance(value, os.PathLike)}
    settings = settle(parse_settings({**settings, **texts}, "fsg.train"))
    console = make_console(stderr=False)
    console.quiet = quiet
    if resume is not None:
        folder = Path(resume)
        if out is not None:
            raise FsgError(f"resume={folder} continues in that folder: leave out away")
        path = folder / "config.toml"
        config = resume_config(load_config(path), settings, path)
        with run_lock(folder):
            return Trained(folder, run_training(config, folder, console))
    config = Config(**settings)
    check_spec(config.dataset)
    with new_run(config, None if out is None else Path(out)) as folder:
        return Trained(folder, run_training(config, folder, console))


def run_training(config: "Config", folder: Path, console: "Console") -> dict[str, Any]:
    """Trains into an existing run folder, and returns the summary. Errors: FsgError; KeyboardInterrupt passes."""
    # Threads that spin while they wait make a step ten times slower as soon as anything else uses the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from fsg.export.check import exportable
    from fsg.training.folder import REMEDY
    from fsg.training.loop import train as train_loop

    with within_memory(REMEDY):
        return train_loop(config, folder, console, check=exportable)


def _check_names(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises FsgError for an argument that a function does not have."""
    names = list(known)
    for name in set(given).difference(names):
        near = get_close_matches(name, names, n=1)
        raise FsgError(f"fsg.{function} has no argument {name}" + (f"; did you mean {near[0]}?" if near else ""))


@installed()
def export(
    source: "Source | nn.Module",
    format: str | Sequence[str] = "tflite",
    *,
    out: Source | None = None,
    shape: tuple[int, int, int] | None = None,
    **how: Any,
) -> list[Path]:
    """Writes a trained model as files, each compared with PyTorch first, as `fsg export` does; returns where they are.

    Args:
        source: the folder of a run, what `train` returned, a .fsg file, or any module of PyTorch's.
        format: "tflite", "onnx", "packed" or "c", or several of them; the files are in their order.
        out: folder to write into; by default that of the run's exports, or of the .fsg file. A module needs it.
        shape: (channels, height, width) of a module's images.
        **how: as the options of `fsg export`, such as int8="layers", input="uint8", best=True; for a module those of
            `fsg.export.pipeline.export_model`, such as images and metadata.

    Raises:
        FsgError: a model that cannot be exported, or a file that disagrees with it; then nothing is written.
    """
    from fsg.export.artefacts import check_settings

    formats = [format] if isinstance(format, str) else list(format)
    folder = None if out is None else Path(out)
    others = ("best", "dataset", "data_dir") if isinstance(source, (str, os.PathLike)) else ("images", "metadata")
    _check_names("export", how, [*list(signature(check_settings).parameters)[1:], "on_step", *others])
    if isinstance(source, (str, os.PathLike)):
        from fsg.export.source import export_any

        report = export_any(Path(source), formats, folder, **how)
    else:
        from fsg.export.pipeline import export_model

        if isinstance(shape, str) or (shape is not None and len(shape) != 3):
            raise FsgError(f"shape is {shape!r}; give channels, height and width, such as (3, 32, 32)")
        if shape is None or folder is None:
            raise FsgError("a module of PyTorch's has neither a size of images nor a folder: give shape and out")
        report = export_model(source, shape, folder, formats, **how)
    written = {artefact["format"]: Path(artefact["path"]) for artefact in report["artefacts"]}
    return [written[name] for name in dict.fromkeys(formats)]


@installed()
def bench(
    source: Source | Sequence[Source],
    device: str = "local",
    *,
    hosts: str | Sequence[str] = (),
    threads: int | Sequence[int] = 1,
    batches: int | Sequence[int] = (),
    show: Callable[[str], object] = lambda text: None,
    **how: Any,
) -> list[dict[str, Any]]:
    """Measures exported models on this machine or on boards, as `fsg bench` does; returns its records.

    Args:
        source: a model file, the folder of a run for what was exported of it, or several of these.
        device: a name of `fsg devices`. Without hosts a board is emulated and estimated, which the records say.
        hosts: where the board is, as for ssh, or "adb:SERIAL".
        threads: numbers of threads, a record for each.
        batches: numbers of images at once, a record for each; by default what the files take.
        show: is told what happens.
        **how: see `fsg.runtime.measure.bench.Plan`: runs, cpus, cooldown_ms, profile and so on.

    Returns:
        What record_schema.json describes; of measured ones latency_ms["p50"] is the median for one image. Records of
        exports are kept beside them, for `fsg report`.

    Raises:
        FsgError: nothing could be measured. What fails on some hosts only is a warning.
    """
    from fsg.runtime.boards.devices import find_device
    from fsg.runtime.measure import bench as room
    from fsg.runtime.measure.records import Model, keep
    from fsg.runtime.model.files import model_files

    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    counts = _numbers("threads", threads)
    sizes = _numbers("batches", batches)
    _check_names("bench", how, (field.name for field in fields(room.Plan)))
    plan = room.Plan(threads=counts, batches=sizes, **how)
    if hosts and device == "local":
        raise FsgError("hosts are boards: say with device what they are, such as device='rpi4'")
    board = None if device == "local" else find_device(device, plan.devices)
    models = [Model(path) for path in model_files(map(Path, sources), board.runs if board else None)]
    outcome = room.bench(models, board, [hosts] if isinstance(hosts, str) else hosts, plan, show)
    if outcome.problems and not outcome.records:
        raise FsgError("; ".join(map(str, outcome.problems)))
    for problem in outcome.problems:
        warnings.warn(str(problem), stacklevel=2)
    for note in outcome.notes:
        show(note)
    try:
        keep(outcome.records, models)
    except FsgError as error:  # what was measured is not lost
        warnings.warn(f"not kept for fsg report: {error}", stacklevel=2)
    return outcome.records


def _numbers(name: str, given: int | Sequence[int]) -> list[int]:
    """A number, or several, as a list. Errors: FsgError for something else."""
    numbers = [given] if isinstance(given, int) else list(given)
    if any(not isinstance(number, int) for number in numbers):
        raise FsgError(f"{name} is {given!r}; give a number or a list of numbers")
    return numbers
