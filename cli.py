"""The `fsg` command: parses, calls, prints. Heavy imports wait inside the commands, so that --help is quick."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from fsg import FsgError, __version__, make_folder, require_utf8, shell_command, within_memory
from fsg.cli_meta import meta_train
from fsg.cli_predict import predict
from fsg.export.options import export_options, is_packed
from fsg.terminal import make_console, print_anything, print_table, write_text
from fsg.training.config import Config, load_config, resume_config
from fsg.training.folder import REMEDY, RUNS, checked_run, new_run, newest_export, newest_run, run_label, run_lock
from fsg.training.launch import first_decides, is_first, reports_failure
from fsg.training.options import (
    PATH,
    SettingsCommand,
    chosen,
    config_options,
    given_settings,
    parse_counts,
    sweep_entries,
    sweep_options,
)
from fsg.training.registry import FIRST_LAST, MODELS

STOPPED = {
    "patience": "no better test loss for {patience} epochs; train on with: {resume} --patience 0",
    "max_minutes": "the next would end after {max_minutes:g} minutes; continue with: {resume}",
}
option = partial(click.option, show_default=True)
EXTRA_OF = {"torch": "train", "tomli_w": "train", "matplotlib": "train", "tensorboard": "train", "onnx": "export"}


def main() -> None:
    """Runs the command; every foreseen problem is one line on stderr and exit code 2."""
    print_anything()
    try:
        with within_memory("take smaller images or a smaller model"):
            code = cli.main(prog_name="fsg", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        if reports_failure():
            click.echo("interrupted", err=True)
        code = 130
    except (click.ClickException, FsgError, ModuleNotFoundError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if isinstance(error, ModuleNotFoundError):
            extra = EXTRA_OF.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            message = f"this needs the package {error.name}: pip install 'fsg[{extra}]'"
        if "--debug" in sys.argv:
            raise
        if reports_failure():
            click.echo(f"fsg: error: {' '.join(message.split())}", err=True)
        code = 2
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train binary neural networks in PyTorch, export them, run and measure them bitwise.

    \b
    fsg train                         train a network, into runs/NAME
    fsg export --format tflite        write a verified model file
    fsg bench                         measure it on this machine, or a board with --device and --host
    fsg predict runs/NAME cat.jpg     what it sees on pictures
    fsg report                        all about it on one HTML page
    fsg compare --methods ste,fsg     train with several methods and seeds, and compare
    """
    try:
        require_utf8(*sys.argv[1:], os.getcwd())
    except FileNotFoundError as error:
        raise FsgError("the current folder was removed: go to another") from error


@cli.command(cls=SettingsCommand)
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
    # Threads that spin while they wait make a step ten times slower as soon as anything else uses the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from fsg.export.check import exportable
    from fsg.training.loop import train as train_loop

    try:
        with within_memory(REMEDY):
            summary = train_loop(config, folder, make_console(stderr=False), check=exportable)
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
    click.echo(f"next: {shell_command('export', folder, '--format', 'tflite', '--format', 'onnx')}")
    return 0


@cli.command(cls=SettingsCommand)
@click.argument("runs", nargs=-1, type=PATH, metavar="[RUN]...")
@sweep_options("ste,fsg")
@option("--seeds", default="0,1,2", help="One run of each method for each.")
@option("--out", type=PATH, help="Folder to write into.  [default: runs/compare-MODEL-DATASET]")
@option("--jobs", default=1, type=click.IntRange(min=1), help="Runs at a time; they share the cores.")
@option("--yes", is_flag=True, help="Train the default methods on the default data, too.")
@click.pass_context
def compare(
    context: click.Context, runs: tuple[Path, ...], seeds: str, out: Path | None, jobs: int, **settings: Any
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
        for name in (*settings, "seeds", "jobs"):
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
            groups = run_sweep(entries, parse_seeds(seeds), folder, console, agreed=agreed, jobs=jobs)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command continues")
            sys.exit(130)
    write_comparison(groups, folder)
    print_table(comparison_table(groups))
    click.echo(f"report in {folder / 'compare.md'}, figure in {folder / 'compare.png'}")


@cli.command("bench-train", cls=SettingsCommand)
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


cli.add_command(meta_train)
cli.add_command(predict)


@cli.command()
@click.argument("source", required=False, type=PATH, metavar="[RUN|FILE.fsg]")
@export_options
def export(source: Path | None, formats: tuple[str, ...], out: Path | None, **how: Any) -> None:
    """Write a trained model as .tflite, .onnx, .fsg or .c.

    RUN is a run folder; the newest under ./runs if left away. Each file is compared with PyTorch on real test images
    before it takes its place. The hypernetworks stay behind. A packed-sign FILE.fsg needs neither its run nor PyTorch:
    what is written is compared with that file, on the test images of --dataset or on random ones.
    """
    source = source or newest(newest_run)
    if not is_packed(source):
        checked_run(source)
    with make_console().status(f"reading {source}") as status:
        from fsg.export.source import export_any
        from fsg.export.table import export_table

        report = export_any(source, formats, out, on_step=status.update, **how)
    print_table(export_table(report))
    click.echo(f"next: {shell_command('bench', *(artefact['path'] for artefact in report['artefacts']))}")


@cli.command()
@click.argument("targets", nargs=-1, type=PATH, metavar="[FILE|RUN]...")
@option("--device", "device_name", default="local", help="Which board: see fsg devices.")
@option("--devices", type=PATH, help="TOML file with profiles of your own.")
@option("--host", "hosts", multiple=True, help="Where it is, as for ssh, or adb:SERIAL; may be repeated.")
@option("-p", "--port", type=click.IntRange(1, 65535), help="Of ssh on the board.")
@option("-i", "--identity", type=PATH, help="Key file for ssh.")
@option("-o", "options", multiple=True, metavar="KEY=VALUE", help="Option for ssh; may be repeated.")
@option("--timeout", "timeout_s", default=60.0, type=click.FloatRange(min=1), help="Seconds without a sign of life.")
@option("--runtime-lib", type=PATH, help="LiteRT's C library, where it cannot be fetched.")
@option("--threads", default="1", help="Thread counts, such as 1,2.")
@option("--runs", default=50, help="Timed inferences for each record.")
@option("--cpus", help="Cores to stay on, such as 2,3.")
@option("--cooldown", "cooldown_ms", default=0, type=click.IntRange(0, 60_000), help="Pause before a run, in ms.")
@option("--profile", is_flag=True, help="Time of each operator of .tflite files, too.")
@option("--baseline", metavar="float32,int8", help="The same network in these numbers, too.")
@option("--accuracy", metavar="DATASET", help="Accuracy on these test images, too.")
@option("--data-dir", help="Where data sets are.")
@option("--json", help="Write the records to this file, or with - print them.")
@option("--csv", help="The same as comma-separated values.")
@option("--markdown", help="The table in Markdown.")
def bench(
    targets: tuple[Path, ...],
    device_name: str,
    hosts: tuple[str, ...],
    threads: str,
    cpus: str | None,
    baseline: str | None,
    accuracy: str | None,
    data_dir: str | None,
    **given: Any,
) -> None:
    """Measure latency and memory of exported models.

    \b
    fsg bench                                     on this machine
    fsg bench --device rpi4 --host pi@raspberry   on a board, by ssh; nothing is installed on it
    fsg bench --device android --host adb         on a phone, by adb
    fsg bench --device rpi4                       without one: emulated and estimated, never a latency
    fsg bench --device cortex-m4                  a model.c, emulated: its results, flash, RAM, instructions

    FILE is a .tflite, .onnx, .fsg or .c, RUN a run folder; the export of the newest run under ./runs if left away.
    Records of exports are kept beside them in bench.json, for fsg report.
    """
    from rich.markup import escape

    from fsg.runtime.boards.devices import find_device
    from fsg.runtime.measure import bench as room
    from fsg.runtime.measure.records import Model, keep
    from fsg.runtime.model.files import model_files
    from fsg.runtime.report.table import bench_table, forms
    from fsg.training.data.load import Shelf

    ssh = room.Ssh(**{name: given.pop(name) for name in ("port", "identity", "options", "timeout_s")})
    outputs = {name: given.pop(name) for name in ("json", "csv", "markdown")}
    plan = room.Plan(
        threads=parse_counts("--threads", threads, "1,2,4"),
        cpus=parse_counts("--cpus", cpus, "2,3", least=0) if cpus else None,
        ssh=ssh,
        **given,
    )
    if hosts and device_name == "local":
        raise FsgError("--host needs to know what it reaches: name the board with --device, such as --device rpi4")
    if not hosts and (ssh.port or ssh.words):
        raise FsgError("-p, -i and -o are for ssh: say with --host where the board is")
    for path in filter(None, outputs.values()):
        if path != "-":
            make_folder(Path(path).parent)
    device = None if device_name == "local" else find_device(device_name, plan.devices)
    load, accuracies = Shelf(), dict[Path, float]()
    models = [Model(path) for path in model_files(targets or (newest(newest_export),), device.runs if device else None)]
    with room.ending_in_good_order(), make_console().status("starting") as status:

        def show(text: str) -> None:
            status.update(escape(text))

        if baseline:
            for package in ("torch", "tensorflow"):
                if find_spec(package) is None:
                    raise FsgError(f"--baseline needs the package {package}: pip install 'fsg[lce]'")
            from fsg.export.baseline import with_baselines

            models = with_baselines(models, baseline, data_dir=data_dir, load=load, show=show)
        if accuracy:
            from fsg.training.evaluate import accuracies_on

            accuracies = accuracies_on([m.path for m in models], accuracy, data_dir=data_dir, load=load, show=show)
        outcome = room.bench(models, device, hosts, plan, show)
    records, notes = outcome.records, list(outcome.notes)
    if accuracy:
        room.add_accuracy(records, accuracies, accuracy)
    if records:
        for name, text in forms(records).items():
            write_text(text, outputs[name])
        if "-" not in outputs.values():
            print_table(bench_table(records))
    try:
        keep(records, models)
    except FsgError as error:  # what was measured is not lost
        notes.append(f"not kept for fsg report: {error}")
    if device and not hosts and device.runs == "tflite":
        notes.append(f"to measure on a board: {shell_command(*sys.argv[1:])} --host {device.address}")
    for note in notes:
        click.echo(note, err="-" in outputs.values())
    if outcome.problems:
        raise FsgError("; ".join(map(str, outcome.problems)))


@cli.command()
@click.argument("run", required=False, type=PATH)
@option("--bench", "bench_files", multiple=True, type=PATH, help="More records of fsg bench.")
@option("--out", type=PATH, help="File to write.  [default: RUN/report.html]")
def report(run: Path | None, bench_files: tuple[Path, ...], out: Path | None) -> None:
    """Write one HTML page about a run: training, export, latency.

    It needs no network and holds every figure of the run's summary.json, of export/report.json and of the records that
    fsg bench kept in export/bench.json.
    """
    from fsg.runtime.report.page import write_page

    run = run or newest(newest_run)
    if (config := run / "config.toml").exists():
        load_config(config)
    click.echo(f"report in {write_page(run, bench_files, out)}")


@cli.command("eval")
@click.argument("target", required=False, type=PATH, metavar="[RUN|FILE]")
@option("--dataset", help="Data set to test on.  [default: that of the training]")
@option("--data-dir", help="Where that data set is.")
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(target: Path | None, dataset: str | None, data_dir: str | None, as_json: bool) -> None:
    """Accuracy of a run or a model file on real images.

    FILE is a .tflite, .onnx, .fsg or .c; the images are the test split of a data set. Without, the newest run is taken.
    """
    target = target or newest(newest_run)
    with make_console().status(f"testing {target}") as status:
        from fsg.runtime.model.files import export_doubts
        from fsg.training.evaluate import evaluate_on

        result = evaluate_on(target, dataset, data_dir=data_dir, show=status.update)
    told = f"{target}: accuracy {result['accuracy']:.2%} on {result['samples']} images of {result['dataset']}"
    click.echo(json.dumps(result) if as_json else told)
    for doubt in export_doubts(target):
        click.echo(doubt, err=True)


@cli.command()
@click.argument("target", required=False, metavar="[RUN|FILE|MODEL]")
@option("--activation-bits", type=click.Choice((1, 32)), default=1, help="For a MODEL.")
@option("--first-last", type=click.Choice(FIRST_LAST), default="float", help="For a MODEL.")
@option("--shape", default="3,32,32", help="Channels, height and width, for a MODEL.")
@option("--classes", default=10, help="For a MODEL.")
def summary(target: str | None, shape: str, **how: Any) -> None:
    """Layers, parameters, memory and MACs of a network.

    Binary MACs are those that XNOR-popcount can do. FILE is a .fsg, MODEL a name as for fsg train, such as resnet20.
    """
    if target and target.endswith(".fsg"):
        from fsg.runtime.model.packed.summary import file_table

        return print_table(file_table(Path(target)))
    is_model = target in MODELS or (target is not None and ":" in target and not Path(target).exists())
    if not is_model:
        run_path = Path(target) if target else newest(newest_run)
        if target and not run_path.is_dir():
            raise FsgError(f"{target} is neither a run folder nor a model; models are {', '.join(MODELS)}")
        checked_run(run_path)
    from fsg.training.networks.network import named_model
    from fsg.training.networks.summary import model_table
    from fsg.training.run import open_run

    if is_model:
        sizes = parse_counts("--shape", shape, "3,224,224")
        model = named_model(str(target), shape=sizes, **how)
    else:
        run = open_run(run_path)
        model, sizes = run.model, list(run.data.shape)
    print_table(model_table(model, (sizes[0], sizes[1], sizes[2])))


@cli.command()
@click.argument("name", required=False)
@option("--devices", "extra", type=PATH, help="A file with devices of your own.")
@option("--json", "as_json", is_flag=True, help="Print the devices as JSON.")
def devices(name: str | None, extra: Path | None, as_json: bool) -> None:
    """The boards that fsg bench --device knows.

    With NAME, all that is known of one, and where the figures are from.
    """
    from fsg.runtime.boards.devices import device_table, devices_table, find_device, load_devices

    found = [find_device(name, extra)] if name else list(load_devices(extra).values())
    if as_json:
        click.echo(json.dumps([asdict(device) for device in found], indent=2))
    else:
        print_table(device_table(found[0]) if name else devices_table(found))


@cli.command()
def env() -> None:
    """Versions, processor, and which native kernels are active."""
    from fsg.runtime.machine import environment, environment_table

    print_table(environment_table(environment()))


def newest(find: Callable[[], Path]) -> Path:
    """What `find` takes for want of an argument, after saying what it is."""
    found = find()
    require_utf8(str(found))
    click.echo(f"taking the newest {'export' if find is newest_export else 'run'}, {found}", err=True)
    return found
