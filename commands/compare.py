"""`fsg compare` and `fsg bench-train`: methods side by side."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from fsg import FsgError, make_folder
from fsg.commands.common import option
from fsg.terminal import make_console, print_table, write_text
from fsg.training.folder import RUNS, run_label
from fsg.training.options import PATH, SettingsCommand, chosen, sweep_entries, sweep_options


@click.command(cls=SettingsCommand)
@click.argument("runs", nargs=-1, type=PATH, metavar="[RUN]...")
@sweep_options("ste,fsg")
@option("--seeds", default="0,1,2", help="One run of each method for each.")
@option("--out", type=PATH, help="Folder to write into.  [default: runs/compare-MODEL-DATASET]")
@option("--jobs", default=1, type=click.IntRange(min=1), help="Runs at a time; they share cores and GPUs out.")
@option("--share", is_flag=True, help="Others, on any machine, may give the same command: each run is trained once.")
@option("--yes", is_flag=True, help="Train the default methods on the default data, too.")
@click.pass_context
def compare(
    context: click.Context,
    runs: tuple[Path, ...],
    seeds: str,
    out: Path | None,
    jobs: int,
    share: bool,
    **settings: Any,
) -> None:
    """Train with several methods and seeds, and compare the runs.

    Writes compare.md, compare.csv and compare.png. Interrupted, the same command continues: finished runs are kept,
    unfinished ones resumed. With finished RUN folders nothing is trained: those are compared, grouped by what differs
    between them apart from the seed. The methods are compared with the first one.
    """
    from fsg.training.experiments.compare import comparison_table, write_comparison
    from fsg.training.experiments.results import group_runs, read_run

    if runs:
        default = click.core.ParameterSource.DEFAULT
        for name in (*settings, "seeds", "jobs", "share"):
            if context.get_parameter_source(name) is not default:
                option = "--" + name.replace("_", "-")
                raise FsgError(f"{option} is for new runs, but finished ones are given: leave one or the other away")
        groups = group_runs([read_run(run) for run in dict.fromkeys(runs)])
        folder = out or RUNS / "compare"
    else:
        from fsg.training.experiments.sweep import parse_seeds, run_sweep

        entries = sweep_entries(context)
        folder = out or RUNS / f"compare-{run_label(next(iter(entries.values())))}"
        try:
            console, agreed = make_console(stderr=False), chosen(context) or settings["yes"]
            groups = run_sweep(entries, parse_seeds(seeds), folder, console, agreed=agreed, jobs=jobs, share=share)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command continues")
            sys.exit(130)
    write_comparison(groups, folder)
    print_table(comparison_table(groups))
    click.echo(f"report in {folder / 'compare.md'}, figure in {folder / 'compare.png'}")


@click.command("bench-train", cls=SettingsCommand)
@sweep_options("ste,fsg,fsg:variant=reference,metaquant")
@option("--rounds", default=10, type=click.IntRange(min=1), help="Turns of each method.")
@option("--steps", default=3, type=click.IntRange(min=1), help="Timed steps in each turn.")
@option("--json", "json_path", help="Write the records to this file, or with - print them.")
@click.pass_context
def bench_train(context: click.Context, rounds: int, steps: int, json_path: str | None, **_settings: Any) -> None:
    """Measure what a training step costs with each method.

    Seconds and peak memory of the real network, loss and gradient rule on synthetic 3x32x32 images. Each method has
    a process of its own, and they take turns. The ratio is to the first. Nothing is distilled.
    """
    from fsg.training.experiments.bench_step import measure_steps, records, step_table

    entries = sweep_entries(context)
    if json_path and json_path != "-":
        make_folder(Path(json_path).parent)
    with make_console().status("starting") as status:
        costs = measure_steps(entries, rounds=rounds, steps=steps, show=status.update)
    write_text(json.dumps(records(costs, entries), indent=2) + "\n", json_path)
    if json_path != "-":
        print_table(step_table(costs, entries))
