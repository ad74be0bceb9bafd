"""The `fsg` command: parses, calls, prints. Heavy imports wait inside the commands, so that --help is quick."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click

from fsg import FsgError, __version__, make_folder, replacing
from fsg.training.config import (
    HEADINGS,
    PRESETS,
    Config,
    load_config,
    parse_assignment,
    read_settings,
    resume_config,
    save_config,
)
from fsg.training.launch import first_decides, is_first, reports_failure
from fsg.training.registry import FIRST_LAST

RUNS = Path("runs")
RUN_FILES = ("config.toml", "checkpoint.pt", "metrics.csv", "flips.csv", "summary.json")
SHORT_FORMS: dict[str, dict[str, Any]] = {"no_history": {"history": 0}, "amp": {"precision": "bf16"}}
STOPPED = {
    "patience": "no better test loss for {patience} epochs; train on with: fsg train --resume {folder} --patience 0",
    "max_minutes": "the next would end after {max_minutes:g} minutes; continue with: fsg train --resume {folder}",
}
EXTRAS = {
    "torch": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "onnx": "export",
}  # which extra brings what a command may lack
F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """Runs the command; every foreseen problem is one line on stderr and exit code 2."""
    try:
        code = cli.main(prog_name="fsg", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        if reports_failure():
            click.echo("interrupted", err=True)
        code = 130
    except (click.ClickException, FsgError, ModuleNotFoundError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if isinstance(error, ModuleNotFoundError):
            extra = EXTRAS.get((error.name or "").partition(".")[0])
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
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train binary neural networks in PyTorch, export them, run and measure them bitwise.

    \b
    fsg train                         train a network, into runs/NAME
    fsg export --format tflite        write a verified model file
    fsg bench                         measure it on this machine, or a board with --device and --host
    fsg report                        all about it on one HTML page
    fsg compare --methods ste,fsg     train with several methods and seeds, and compare
    """


class SettingsCommand(click.Command):
    """A command whose help lists the settings of `Config` under their headings, after its other options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        records = {option.name: option.get_help_record(ctx) for option in options}
        settings, heading = {}, ""
        for field in fields(Config):
            heading = HEADINGS.get(field.name, heading)
            settings[field.name] = heading
        for title in ("Options", *HEADINGS.values()):
            rows = [row for name, row in records.items() if row and settings.get(name or "", "Options") == title]
            with formatter.section(title):
                formatter.write_dl(rows)


def config_options(command: F) -> F:
    """The options of `fsg train` that give settings: files and short forms, and one for every setting of `Config`."""
    for field in reversed(fields(Config)):
        name, default = "--" + field.name.replace("_", "-"), field.default
        choices = field.metadata["choices"]
        kind: Any = click.Choice(choices) if choices else field.type
        if field.type is bool:
            name, kind = f"{name}/--no-{name[2:]}", None
        command = click.option(
            name, field.name, type=kind, default=default, show_default=default != "", help=field.metadata["text"]
        )(command)
    for option in (
        click.option("--amp", is_flag=True, help="The same as --precision bf16."),
        click.option("--no-history", is_flag=True, help="The same as --history 0."),
        click.option("--set", metavar="KEY=VALUE", multiple=True, help="A setting; may be given several times."),
        click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings: a run's config.toml."),
        click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings that belong together."),
    ):
        command = option(command)
    return command


@cli.command(cls=SettingsCommand)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/MODEL-DATASET-METHOD]")
@click.option("--resume", type=click.Path(path_type=Path), help="Continue the run in this folder.")
@config_options
@click.pass_context
def train(context: click.Context, out: Path | None, resume: Path | None, **_settings: Any) -> None:
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
        run_training(resume_config(load_config(path), given, path), resume)
        return

    config = Config(**given)
    check_spec(config.dataset)
    existed = bool(out and out.exists())
    folder = Path(first_decides(lambda: str(start_run(config, out))))
    try:
        run_training(config, folder)
    except (FsgError, ModuleNotFoundError):
        if is_first() and not (folder / "checkpoint.pt").exists():  # nothing was trained: leave no trace
            (folder / "config.toml").unlink(missing_ok=True)
            if not existed:
                with suppress(OSError):  # someone else's file may be in it by now
                    folder.rmdir()
        raise


def start_run(config: Config, out: Path | None) -> Path:
    """Makes the folder of a new run and writes its config.toml."""
    folder = out or unused_folder(config)
    taken = next((folder / name for name in RUN_FILES if (folder / name).exists()), None)
    if taken:
        raise FsgError(f"{taken} exists: continue that run with --resume {folder}, or choose another --out")
    make_folder(folder)
    save_config(config, folder / "config.toml")
    return folder


def given_settings(context: click.Context) -> dict[str, Any]:
    """The settings that a command line asks for, with absolute paths: --preset < --config < --set < options."""
    options = context.params
    given = dict(PRESETS.get(options["preset"], {}))
    if options["config"]:
        given |= read_settings(options["config"])
    for assignment in options["set"]:
        given |= parse_assignment(assignment, f"--set {assignment}")
    for name, short in SHORT_FORMS.items():
        given |= short if options[name] else {}
    default = click.core.ParameterSource.DEFAULT
    names = [field.name for field in fields(Config) if field.name in options]
    given |= {name: options[name] for name in names if context.get_parameter_source(name) is not default}
    return absolute_paths(given)


def absolute_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings, but with absolute paths, so that a run can be used from anywhere."""
    changed = dict(settings)
    for name in ("init", "teacher", "data_dir"):
        if changed.get(name):
            changed[name] = str(Path(changed[name]).expanduser().resolve())
    if "dataset" in changed:
        changed["dataset"] = absolute_spec(changed["dataset"])
    return changed


def run_training(config: Config, folder: Path) -> None:
    """Trains into an existing run folder and prints where things are."""
    # Threads that spin while they wait make a step ten times slower as soon as anything else uses the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console = make_console(stderr=False)
    from fsg.training.loop import train as train_loop

    try:
        summary = train_loop(config, folder, console)
    except KeyboardInterrupt:
        if reports_failure():
            click.echo(f"interrupted; continue with: fsg train --resume {folder}")
        sys.exit(130)
    if not is_first():
        return
    if summary["stopped"]:
        reason = STOPPED[summary["stopped"]].format(folder=folder, **asdict(config))
        click.echo(f"stopped after epoch {summary['epochs']} of {config.epochs}: {reason}")
    click.echo(f"test accuracy {summary['test_accuracy']:.2%}; curves in {folder / 'curves.png'}")
    click.echo(f"next: fsg export {folder} --format tflite --format onnx")


def absolute_spec(spec: str) -> str:
    """folder:PATH and npz:PATH with an absolute path."""
    name, _, path = spec.partition(":")
    if name in ("folder", "npz") and path:
        return f"{name}:{Path(path).expanduser().resolve()}"
    return spec


def run_label(config: Config) -> str:
    """MODEL-DATASET, fit for the name of a folder."""
    name, _, path = config.dataset.partition(":")
    return f"{config.model.replace(':', '-')}-{Path(path).stem if path else name}"


def unused_folder(config: Config) -> Path:
    """runs/MODEL-DATASET-METHOD, numbered if it is taken."""
    base = RUNS / f"{run_label(config)}-{config.method}"
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def sweep_options(methods: str) -> Callable[[F], F]:
    """--methods and the settings, for commands that take several methods."""

    def decorate(command: F) -> F:
        command = config_options(command)
        taken = ("method", "seed")
        parameters = command.__click_params__  # type: ignore[attr-defined]
        parameters[:] = [parameter for parameter in parameters if parameter.name not in taken]
        text = "Gradient rules, each with settings of its own if need be: ste,ste:lr=2e-3,fsg:variant=reference."
        return click.option("--methods", default=methods, show_default=True, help=text)(command)

    return decorate


def sweep_entries(context: click.Context) -> dict[str, Config]:
    """The settings of each entry of --methods: its own win over those that the command line gives for all."""
    from fsg.training.data.load import check_spec
    from fsg.training.experiments.sweep import parse_methods

    common = given_settings(context)
    entries = {}
    for label, own in parse_methods(context.params["methods"]).items():
        entries[label] = Config(**common | absolute_paths(own))
        check_spec(entries[label].dataset)
    return entries


@cli.command(cls=SettingsCommand)
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN]...")
@sweep_options("ste,fsg")
@click.option("--seeds", default="0,1,2", show_default=True, help="One run of each method for each.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write into.  [default: runs/compare-MODEL-DATASET]"
)
@click.pass_context
def compare(context: click.Context, runs: tuple[Path, ...], seeds: str, out: Path | None, **settings: Any) -> None:
    """Train with several methods and seeds, and compare the runs.

    Writes compare.md, compare.csv and compare.png. Interrupted, the same command continues: finished runs are kept,
    unfinished ones resumed. With finished RUN folders nothing is trained: those are compared, grouped by what differs
    between them apart from the seed. The methods are compared with the first one.
    """
    from fsg.training.experiments.compare import comparison_table, write_comparison
    from fsg.training.experiments.results import group_runs, labelled_groups, read_run

    if runs:
        default = click.core.ParameterSource.DEFAULT
        for name in (*settings, "seeds"):
            if context.get_parameter_source(name) is not default:
                option = "--" + name.replace("_", "-")
                raise FsgError(f"{option} is for new runs, but finished ones are given: leave one or the other away")
        groups = group_runs([read_run(run) for run in dict.fromkeys(runs)])
        folder = out or RUNS / "compare"
    else:
        from fsg.training.experiments.sweep import parse_seeds, plan_runs, run_all

        entries = sweep_entries(context)
        folder = out or RUNS / f"compare-{run_label(next(iter(entries.values())))}"
        planned = plan_runs(entries, parse_seeds(seeds), folder)
        try:
            run_all(planned, folder, make_console(stderr=False))
        except KeyboardInterrupt:
            click.echo("interrupted; the same command continues")
            sys.exit(130)
        groups = labelled_groups({label: [run.folder for run in planned if run.label == label] for label in entries})
    write_comparison(groups, folder)
    print_table(comparison_table(groups))
    click.echo(f"report in {folder / 'compare.md'}, figure in {folder / 'compare.png'}")


@cli.command("bench-train", cls=SettingsCommand)
@sweep_options("ste,fsg,fsg:variant=reference,metaquant")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(min=1), help="Turns of each method.")
@click.option("--steps", default=3, show_default=True, type=click.IntRange(min=1), help="Timed steps in each turn.")
@click.option("--json", "json_path", help="Write the records to this file, or with - print them.")
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
    write_json(records(costs, entries), json_path)
    if json_path != "-":
        print_table(step_table(costs, entries))


def write_json(content: Any, path: str | None) -> None:
    """Writes JSON to a file, or prints it where the path is "-"; without a path, nothing."""
    write_text(json.dumps(content, indent=2) + "\n", path)


def write_text(text: str, path: str | None) -> None:
    """The same with text."""
    if path == "-":
        click.echo(text, nl=False)
    elif path:
        with replacing(Path(path)) as temporary:
            temporary.write_text(text)


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    type=click.Choice(["tflite", "onnx"]),
    multiple=True,
    default=["tflite"],
    show_default=True,
    help="May be given several times.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write into.  [default: RUN/export]")
@click.option("--data-dir", help="Where the data set of the run is now.")
def export(run: Path | None, formats: tuple[str, ...], out: Path | None, data_dir: str | None) -> None:
    """Write a trained model as .tflite or .onnx.

    Each is compared with PyTorch on real test images before it takes its place. The hypernetworks stay behind. RUN is
    a run folder; the newest under ./runs if left away.
    """
    run = checked_run(run or newest_run())
    console = make_console()
    with console.status(f"reading {run}") as status:
        from fsg.export.pipeline import export_run
        from fsg.training.run import open_run

        formats = tuple(dict.fromkeys(formats))
        report = export_run(open_run(run), formats, out or run / "export", data_dir=data_dir, on_step=status.update)
    from fsg.export.report import export_table

    print_table(export_table(report))
    paths = " ".join(artefact["path"] for artefact in report["artefacts"])
    click.echo(f"next: fsg bench {paths}")


@cli.command()
@click.argument("targets", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE|RUN]...")
@click.option("--device", "device_name", default="local", show_default=True, help="Which board: see fsg devices.")
@click.option("--devices", type=click.Path(path_type=Path), help="TOML file with profiles of your own.")
@click.option("--host", "hosts", multiple=True, help="Where the board is, as for ssh; may be given several times.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Of ssh on the board.")
@click.option("-i", "--identity", type=click.Path(path_type=Path), help="Key file for ssh.")
@click.option(
    "-o", "ssh_options", multiple=True, metavar="KEY=VALUE", help="Option for ssh; may be given several times."
)
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=1), help="Seconds without a sign."
)
@click.option("--runtime-lib", type=click.Path(path_type=Path), help="LiteRT's C library, where it cannot be fetched.")
@click.option("--threads", default="1", show_default=True, help="Thread counts, such as 1,2.")
@click.option("--runs", default=50, show_default=True, help="Timed inferences for each record.")
@click.option("--cpus", help="Cores to stay on, such as 2,3.")
@click.option("--cooldown", default=0, show_default=True, type=click.IntRange(min=0), help="Pause before a run, in ms.")
@click.option("--profile", is_flag=True, help="Time of each operator of .tflite files, too.")
@click.option("--baseline", metavar="float32,int8", help="The same network in these numbers, too.")
@click.option("--accuracy", metavar="DATASET", help="Accuracy on these test images, too.")
@click.option("--data-dir", help="Where data sets are.")
@click.option("--json", "json_path", help="Write the records to this file, or with - print them.")
@click.option("--csv", "csv_path", help="The same as comma-separated values.")
@click.option("--markdown", "markdown_path", help="The table in Markdown.")
def bench(
    targets: tuple[Path, ...],
    device_name: str,
    hosts: tuple[str, ...],
    port: int | None,
    identity: Path | None,
    ssh_options: tuple[str, ...],
    timeout: float,
    threads: str,
    cpus: str | None,
    cooldown: int,
    baseline: str | None,
    accuracy: str | None,
    data_dir: str | None,
    json_path: str | None,
    csv_path: str | None,
    markdown_path: str | None,
    **settings: Any,
) -> None:
    """Measure latency and memory of exported models.

    \b
    fsg bench                                     on this machine
    fsg bench --device rpi4 --host pi@raspberry   on a board, by ssh; nothing is installed on it
    fsg bench --device rpi4                       without one: emulated and estimated, never a latency

    FILE is a .tflite or .onnx, RUN a run folder; the export of the newest run under ./runs if left away. Records of
    exports are kept beside them in bench.json, for fsg report.
    """
    from rich.markup import escape

    from fsg.runtime.measure import bench as room
    from fsg.runtime.measure.records import Model, keep

    ssh_words = [
        *(("-i", str(identity)) if identity else ()),
        *(word for option in ssh_options for word in ("-o", option)),
    ]
    if hosts and device_name == "local":
        raise FsgError("--host needs to know what it reaches: name the board with --device, such as --device rpi4")
    if not hosts and (port or ssh_words):
        raise FsgError("-p, -i and -o are for ssh: say with --host where the board is")
    plan = room.Plan(
        threads=parse_counts("--threads", threads, "1,2,4"),
        cpus=parse_counts("--cpus", cpus, "2,3", least=0) if cpus else None,
        cooldown_ms=cooldown,
        ssh=room.Ssh(port=port, options=ssh_words, timeout_s=timeout),
        **settings,
    )
    outputs = {"json": json_path, "csv": csv_path, "markdown": markdown_path}
    for path in filter(None, outputs.values()):
        if path != "-":
            make_folder(Path(path).parent)
    is_local = device_name == "local"
    device = None
    if not is_local:
        from fsg.runtime.boards.devices import find_device

        device = find_device(device_name, plan.devices)
    models = [Model(path) for path in model_files(targets, onnx=is_local)]
    with ending_in_good_order(), make_console().status("starting") as status:

        def show(text: str) -> None:
            status.update(escape(text))

        if baseline:
            models = with_baselines(models, baseline, data_dir, show)
        accuracies = accuracies_on(accuracy, models, data_dir, show) if accuracy else {}
        if device is None:
            outcome = room.bench_local(models, plan, show)
        elif hosts:
            outcome = room.bench_boards(models, device, hosts, plan, show)
        else:
            outcome = room.bench_without_board(models, device, plan, show)
    if accuracy:
        room.add_accuracy(outcome.records, accuracies, accuracy)
    if outcome.records:
        print_records(outcome.records, outputs)
    notes = list(outcome.notes)
    try:
        keep(outcome.records, models)
    except FsgError as error:  # what was measured is not lost
        notes.append(f"not kept for fsg report: {error}")
    if device and not hosts:
        notes.append(f"to measure on a board: {shlex.join(['fsg', *sys.argv[1:]])} --host USER@HOST")
    for note in notes:
        click.echo(note, err="-" in outputs.values())
    if outcome.problems:
        raise FsgError("; ".join(map(str, outcome.problems)))


def print_records(records: list[dict[str, Any]], outputs: dict[str, str | None]) -> None:
    """Writes bench records in the forms asked for; prints the table unless one of them went to stdout."""
    from fsg.runtime.report.table import bench_table, csv_text, markdown

    write_json(records, outputs["json"])
    write_text(csv_text(records), outputs["csv"])
    write_text(markdown(records), outputs["markdown"])
    if "-" not in outputs.values():
        print_table(bench_table(records))


def model_files(targets: tuple[Path, ...], *, onnx: bool) -> tuple[Path, ...]:
    """The model files that `targets` name: files, or runs for what was exported of them; the newest run for none."""
    from fsg.runtime.model.files import model_format

    files: list[Path] = []
    for target in targets or (newest_export().parent,):
        if not target.is_dir():
            model_format(target)
            files.append(target)
            continue
        folder = target if (target / "report.json").exists() else target / "export"
        exported = [path for path in sorted(folder.glob("model.*"), reverse=True) if onnx or path.suffix == ".tflite"]
        if not exported:
            what = "" if onnx else " as .tflite, which boards run"
            raise FsgError(f"{target}: nothing exported{what}: fsg export {target} --format tflite")
        files += exported
    return tuple(dict.fromkeys(files))


def with_baselines(models: list[Any], numbers: str, data_dir: str | None, show: Callable[[str], Any]) -> list[Any]:
    """The models, each .tflite followed by its twins in the numbers that --baseline names."""
    from fsg.runtime.measure.records import Model
    from fsg.runtime.model.files import exported_checkpoint, run_of

    kinds = [kind.strip() for kind in numbers.split(",")]
    if not set(kinds) <= {"float32", "int8"}:
        raise FsgError(f"--baseline {numbers}: choose float32, int8 or float32,int8")
    runs = {model.path: run_of(model.path) for model in models if model.path.suffix == ".tflite"}
    for package in ("torch", "tensorflow"):
        if find_spec(package) is None:
            raise FsgError(f"--baseline needs the package {package}: pip install 'fsg[all]'")
    from fsg.export.baseline import baseline
    from fsg.training.checkpoint import digest

    for path, run in runs.items():
        if exported_checkpoint(path) not in (None, digest(run)):
            again = shlex.join(["fsg", "export", str(run), "--format", "tflite"])
            raise FsgError(f"{path}: the run was trained on since, and a baseline would be another network: {again}")
    found: list[Any] = []
    for model in models:
        found.append(model)
        if model.path in runs:
            for kind in dict.fromkeys(kinds):
                path = baseline(runs[model.path], kind, data_dir=data_dir, on_step=show)
                found.append(Model(path, kind, model.path))
    return found


def accuracies_on(spec: str, models: list[Any], data_dir: str | None, show: Callable[[str], Any]) -> dict[Path, float]:
    """The accuracy of each model on the test images of a data set, computed on this machine."""
    from fsg.runtime.model.evaluate import evaluate as evaluate_model
    from fsg.runtime.model.session import open_model
    from fsg.training.data.load import check_spec, load_dataset

    check_spec(spec)
    data = load_dataset(spec, data_dir=data_dir, test_only=True)
    found = {}
    for model in models:
        show(f"testing {model.path} on {len(data.x_test)} images")
        result = evaluate_model(open_model(model.path), data.x_test, data.y_test, data.class_names)
        found[model.path] = result["accuracy"]
    return found


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--bench", "bench_files", multiple=True, type=click.Path(path_type=Path), help="More records of fsg bench."
)
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: RUN/report.html]")
def report(run: Path | None, bench_files: tuple[Path, ...], out: Path | None) -> None:
    """Write one HTML page about a run: training, export, latency.

    It needs no network and holds every figure of the run's summary.json, of export/report.json and of the records that
    fsg bench kept in export/bench.json.
    """
    run = run or newest_run()
    if not run.is_dir():
        raise FsgError(f"{run}: no such folder; give that of a run")
    for path in bench_files:
        if not path.is_file():
            raise FsgError(f"{path}: no such file; fsg bench --json writes one")
    from fsg.runtime.report.page import page, read_facts

    out = out or run / "report.html"
    text = page(read_facts(run, bench_files))
    make_folder(out.parent)
    with replacing(out) as temporary:
        temporary.write_text(text)
    click.echo(f"report in {out}")


def parse_counts(option: str, text: str, example: str, *, least: int = 1) -> list[int]:
    """The numbers, of at least `least`, in a list such as "1,2,4"."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < least:
        raise FsgError(f"{option} {text}: give numbers of at least {least}, such as {example}")
    return counts


@cli.command("eval")
@click.argument("target", required=False, type=click.Path(path_type=Path), metavar="[RUN|FILE]")
@click.option("--dataset", help="Data set to test on.  [default: that of the training]")
@click.option("--data-dir", help="Where that data set is.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(target: Path | None, dataset: str | None, data_dir: str | None, as_json: bool) -> None:
    """Accuracy of a run or a model file on real images.

    FILE is a .tflite or .onnx. The images are the test split of a data set. With neither, the
    newest run under ./runs is taken.
    """
    target = target or newest_run()
    with make_console().status(f"testing {target}") as status:
        from fsg.runtime.model.evaluate import evaluate as evaluate_model
        from fsg.training.data.load import check_spec, load_dataset

        model: Any
        if target.is_dir():
            checked_run(target)
            from fsg.training.run import open_run

            model = open_run(target)
        else:
            from fsg.runtime.model.session import open_model

            model = open_model(target)
        spec = dataset or model.metadata.get("dataset")
        if not spec:
            raise FsgError(f"{target} does not say what it was trained on: give --dataset")
        check_spec(spec)
        data = load_dataset(spec, data_dir=data_dir, test_only=True)
        status.update(f"testing {target} on {len(data.x_test)} images")
        result = {"dataset": spec, **evaluate_model(model, data.x_test, data.y_test, data.class_names)}
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{target}: accuracy {result['accuracy']:.2%} on {result['samples']} images of {spec}")


@cli.command()
@click.argument("target", required=False, metavar="[RUN|MODEL]")
@click.option("--activation-bits", type=click.Choice((1, 32)), default=1, help="For a MODEL.")
@click.option("--first-last", type=click.Choice(FIRST_LAST), default="float", help="For a MODEL.")
@click.option("--shape", default="3,32,32", show_default=True, help="Channels, height and width, for a MODEL.")
@click.option("--classes", default=10, show_default=True, help="For a MODEL.")
def summary(target: str | None, activation_bits: int, first_last: str, shape: str, classes: int) -> None:
    """Layers, parameters, memory and MACs of a network.

    Binary MACs are those that XNOR-popcount can do. MODEL is a name as for fsg train, such as
    resnet20 or torchvision:resnet18.
    """
    from fsg.training.registry import MODELS

    is_model = target in MODELS or (target is not None and ":" in target and not Path(target).exists())
    if not is_model:
        run_path = Path(target) if target else newest_run()
        if target and not run_path.is_dir():
            raise FsgError(f"{target} is neither a run folder nor a model; models are {', '.join(MODELS)}")
        checked_run(run_path)
    from fsg.training.data.sets import DataInfo
    from fsg.training.networks.network import model_for
    from fsg.training.networks.summary import summarize, summary_table
    from fsg.training.run import open_run

    if is_model:
        sizes = parse_counts("--shape", shape, "3,224,224")
        if len(sizes) != 3 or classes < 2:
            raise FsgError(
                f"--shape {shape} --classes {classes}: give channels, height and width, and 2 classes or more"
            )
        data = DataInfo(tuple(map(str, range(classes))), (), (), (sizes[0], sizes[1], sizes[2]))
        config = Config(model=str(target), activation_bits=activation_bits, first_last=first_last)
        model = model_for(config, data)
    else:
        run = open_run(run_path)
        model, data = run.model, run.data
    print_table(summary_table(summarize(model, data.shape)))


@cli.command()
@click.argument("name", required=False)
@click.option("--devices", "extra", type=click.Path(path_type=Path), help="A file with devices of your own.")
@click.option("--json", "as_json", is_flag=True, help="Print the devices as JSON.")
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


def checked_run(run: Path) -> Path:
    """The run folder, if its settings can be read: a mistyped one is refused before torch is imported."""
    load_config(run / "config.toml")
    return run


def newest_run() -> Path:
    """The run under ./runs whose config.toml is newest, after saying which it is."""
    runs = sorted(RUNS.glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise FsgError(f"no run under ./{RUNS}: train one with fsg train, or name its folder")
    click.echo(f"taking the newest run, {runs[-1].parent}", err=True)
    return runs[-1].parent


def newest_export() -> Path:
    """The report of the newest export under ./runs, after saying which it is."""
    reports = sorted(RUNS.glob("*/export/report.json"), key=lambda path: path.stat().st_mtime)
    if not reports:
        raise FsgError(f"no export under ./{RUNS}: write one with fsg export, or name a model file")
    click.echo(f"taking the newest export, {reports[-1].parent}", err=True)
    return reports[-1]


@contextmanager
def ending_in_good_order() -> Iterator[None]:
    """Within it a process that is told to stop (SIGTERM, SIGHUP) still runs its `finally` blocks."""

    def stop(number: int, _frame: Any) -> None:
        sys.exit(128 + number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def make_console(*, stderr: bool = True) -> Any:
    """A rich console; progress goes to stderr, so that stdout holds only results."""
    from rich.console import Console

    return Console(stderr=stderr)


def print_table(table: Any) -> None:
    """Prints a rich table, wide enough for its content where the output is no terminal; brackets are no markup."""
    from rich.console import Console

    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(width=max(140, console.width), markup=False)
    console.print(table)
