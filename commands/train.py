"""`fsg train`."""

from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fsg import FsgError, face, shell_command
from fsg.commands.common import option
from fsg.terminal import make_console
from fsg.training.config import Config, load_config, resume_config
from fsg.training.folder import new_run, run_lock
from fsg.training.launch import first_decides, is_first, reports_failure
from fsg.training.options import PATH, SettingsCommand, config_options, given_settings

STOPPED = {
    "patience": "no better test loss for {patience} epochs; train on with: {resume} --patience 0",
    "max_minutes": "the next would end after {max_minutes:g} minutes; continue with: {resume}",
}


@click.command(cls=SettingsCommand)
@option("--out", type=PATH, help="Run folder.  [default: runs/MODEL-DATASET-METHOD]")
@option("--resume", type=PATH, help="Continue the run in this folder.")
@config_options
@click.pass_context
def train(context: click.Context, out: Path | None, resume: Path | None, **_settings: Any) -> int:
    """Train a binary network into a run folder.

    Every epoch ends with a checkpoint; an interrupted run continues with --resume, which may also change where the
    data are, the machine, and how long to train. An option given here wins over --set, that over --config, that over
    --preset. In several processes: torchrun --nproc-per-node N -m fsg train ...
    """
    from fsg.training.data.load import check_spec

    given = given_settings(context)
    if resume:
        if out and out.resolve() != resume.resolve():
            raise FsgError(f"--resume {resume} continues in that folder: leave --out away")
        path = resume / "config.toml"
        config = resume_config(load_config(path), given, path)
        with run_lock(resume) if is_first() else nullcontext():
            return run_training(config, resume)

    config = Config(**given)
    check_spec(config.dataset)
    with ExitStack() as stack:
        folder = Path(first_decides(lambda: str(stack.enter_context(new_run(config, out)))))
        return run_training(config, folder)


def run_training(config: Config, folder: Path) -> int:
    """Trains into an existing run folder and prints where things are; returns the exit code."""
    try:
        summary = face.run_training(config, folder, make_console(stderr=False))
    except KeyboardInterrupt:
        if reports_failure():
            click.echo(f"interrupted; continue with: {shell_command('train', '--resume', folder)}")
        return 130
    if not is_first():
        return 0
    if summary["stopped"]:
        reason = STOPPED[summary["stopped"]].format(resume=shell_command("train", "--resume", folder), **asdict(config))
        click.echo(f"stopped after epoch {summary['epochs']} of {config.epochs}: {reason}")
    click.echo(f"test accuracy {summary['test_accuracy']:.2%}; curves in {folder / 'curves.png'}")
    if summary["best_test_accuracy"] > summary["test_accuracy"] and (folder / "best.pt").exists():
        best = f"epoch {summary['best_epoch']} had {summary['best_test_accuracy']:.2%} on the same images"
        click.echo(f"{best}; fsg export and fsg eval take it with --best")
    click.echo(f"next: {shell_command('export', folder, '--format', 'tflite', '--format', 'onnx')}")
    return 0
