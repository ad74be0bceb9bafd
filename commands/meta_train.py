"""`fsg meta-train`: learns the hypernetwork of `fsg train --hypernetwork`."""

import sys
from datetime import date
from pathlib import Path
from typing import Any

import click

from fsg import FsgError, __version__, shell_command
from fsg.commands.common import option
from fsg.terminal import make_console
from fsg.training.config import Config, absolute_paths
from fsg.training.folder import RUNS
from fsg.training.launch import is_first
from fsg.training.options import PATH, SettingsCommand, config_options_but, given_settings, parse_counts

DRAWN = ("dataset", "model", "activation_bits", "epochs", "test_every", "hypernetwork", "method", "variant", "teacher")
"""Settings of a training that are drawn, or have no meaning here."""


@click.command("meta-train", cls=SettingsCommand)
@option("--datasets", default="digits", help="Data sets, with commas between them.")
@option("--models", default="resnet8", help="Networks.")
@option("--bits", default="1", help="Bits of activations, 1 or 32 or both.")
@option("--steps", default="126,252", help="Lengths of the trainings, in steps.")
@option("--generations", default=50, type=click.IntRange(min=1), help="How long to learn; may grow later.")
@option("--pairs", default=8, type=click.IntRange(min=1), help="Pairs of trainings in a generation.")
@option("--sigma", default=0.15, type=click.FloatRange(min=0, min_open=True), help="Size of the perturbations.")
@option("--rate", default=0.03, type=click.FloatRange(min=0, min_open=True), help="Size of a generation's step.")
@option("--checks", default=8, type=click.IntRange(min=2), help="Other tasks, which it is checked on.")
@option("--check-every", default=10, type=click.IntRange(min=1), help="Generations between checks.")
@option("--start", type=PATH, help="Hypernetwork to begin with.  [default: the one that comes with fsg]")
@option("--jobs", default=1, type=click.IntRange(min=1), help="Trainings at a time.")
@option("--out", type=PATH, default=RUNS / "meta", help="Folder to write into.")
@config_options_but(*DRAWN)
@click.pass_context
def meta_train(
    context: click.Context,
    datasets: str,
    models: str,
    bits: str,
    steps: str,
    start: Path | None,
    jobs: int,
    out: Path,
    **given: Any,
) -> None:
    """Learn the hypernetwork of FSG over many short trainings.

    Each training is scored by its losses; evolution strategies move the hypernetwork to where they are lower. The
    trainings are drawn from all combinations of --datasets, --models, --bits and --steps, with learning rates about
    --lr; --init is for resnet20 alone. Writes hypernetwork.json, for fsg train --hypernetwork, after every generation,
    and progress.png. Interrupted, the same command continues; torchrun shares the trainings out to several machines.
    """
    settings = given_settings(context)
    if named := [name for name in DRAWN if name in settings]:
        raise FsgError(f"{named[0].replace('_', '-')} is drawn, or has no meaning in meta-training: leave it away")
    sizes = parse_counts("--bits", bits, "1,32")
    if not set(sizes) <= {1, 32}:
        raise FsgError(f"--bits {bits}: give 1, 32 or 1,32")
    common = Config(**settings)

    from fsg.training.data.load import check_spec
    from fsg.training.experiments.meta import Plan, meta_train
    from fsg.training.methods.fsg import chosen

    specs = [absolute_paths({"dataset": spec})["dataset"] for spec in filter(None, datasets.split(","))]
    for spec in specs:
        check_spec(spec)
    plan = Plan(
        common,
        datasets=tuple(specs),
        models=tuple(filter(None, models.split(","))),
        bits=tuple(sizes),
        steps=tuple(parse_counts("--steps", steps, "126,252")),
        start=chosen(str(start) if start else ""),
        **{name: given[name] for name in ("generations", "pairs", "sigma", "rate", "checks", "check_every")},
    )
    made = {"command": shell_command(*sys.argv[1:]), "version": __version__, "date": date.today().isoformat()}
    try:
        change = meta_train(plan, out, make_console(stderr=False), jobs=jobs, made={**made, "seed": common.seed})
    except KeyboardInterrupt:
        if is_first():
            click.echo("interrupted; the same command continues")
        sys.exit(130)
    if is_first():
        written = f"{out / 'hypernetwork.json'}, figure in {out / 'progress.png'}"
        click.echo(f"the fitness changed by {change.text(2, 100, '+')} %: {written}")
        click.echo(f"next: {shell_command('train', '--hypernetwork', out / 'hypernetwork.json')}")
