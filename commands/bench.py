"""`fsg bench` and `fsg devices`: models on this machine and on boards."""

import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from fsg import FsgError, make_folder, shell_command
from fsg.commands.common import newest, option
from fsg.commands.completion import device_names
from fsg.terminal import make_console, print_table, write_text
from fsg.training.folder import newest_export
from fsg.training.options import PATH, parse_counts


@click.command()
@click.argument("targets", nargs=-1, type=PATH, metavar="[FILE|RUN]...")
@option("--device", "device_name", default="local", shell_complete=device_names, help="Which board: see fsg devices.")
@option("--devices", type=PATH, help="TOML file with profiles of your own.")
@option("--host", "hosts", multiple=True, help="Where it is, as for ssh, or adb:SERIAL; may be repeated.")
@option("-p", "--port", type=click.IntRange(1, 65535), help="Of ssh on the board.")
@option("-i", "--identity", type=PATH, help="Key file for ssh.")
@option("-o", "options", multiple=True, metavar="KEY=VALUE", help="Option for ssh; may be repeated.")
@option("--timeout", "timeout_s", default=60.0, type=click.FloatRange(min=1), help="Seconds without a sign of life.")
@option("--runtime-lib", type=PATH, help="LiteRT's C library, where it cannot be fetched.")
@option("--threads", default="1", help="Thread counts, such as 1,2.")
@option("--batch", metavar="1,8", help="Images at once, a record for each; times are for one image.")
@option("--runs", default=50, help="Timed inferences for each record.")
@option(
    "--seconds",
    default=0.0,
    type=click.FloatRange(min=0),
    metavar="S",
    help="How long to time them, instead of --runs; 0 for these.",
)
@option("--cpus", help="Cores to stay on, such as 2,3.")
@option("--cooldown", "cooldown_ms", default=0, type=click.IntRange(0, 60_000), help="Pause before a run, in ms.")
@option("--profile", is_flag=True, help="What each operator of .tflite files takes, too.")
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
    batch: str | None,
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
        batches=parse_counts("--batch", batch, "1,8") if batch else (),
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


@click.command()
@click.argument("name", required=False, shell_complete=device_names)
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
