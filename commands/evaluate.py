"""`fsg eval`, `fsg summary` and `fsg report`: what a network is and how good."""

import json
from pathlib import Path
from typing import Any

import click

from fsg import FsgError, make_folder
from fsg.commands.common import newest, option
from fsg.terminal import make_console, print_table
from fsg.training.config import load_config
from fsg.training.folder import checked_run, newest_run
from fsg.training.options import PATH, parse_counts
from fsg.training.registry import FIRST_LAST, MODELS


@click.command("eval")
@click.argument("target", required=False, type=PATH, metavar="[RUN|FILE]")
@option("--dataset", help="Data set to test on.  [default: that of the training]")
@option("--data-dir", help="Where that data set is.")
@option("--best", is_flag=True, help="A RUN after the epoch with the highest test accuracy, not after its last.")
@option("--json", "as_json", is_flag=True, help="Print the result as JSON, with the confusion matrix.")
@option("--confusion", type=PATH, metavar="FILE.csv", help="Write how many images of each class were taken for which.")
def evaluate(
    target: Path | None, dataset: str | None, data_dir: str | None, best: bool, as_json: bool, confusion: Path | None
) -> None:
    """Accuracy of a run or a model file on real images, and of each class.

    FILE is a .tflite, .onnx, .fsg or .c; the images are the test split of a data set. Without, the newest run is taken.
    """
    from fsg.runtime.model.files import export_doubts, exported_in

    target = exported_in(target or newest(newest_run))
    if confusion:
        make_folder(confusion.parent)
    with make_console().status(f"testing {target}") as status:
        import numpy as np

        from fsg.runtime.model.classes import class_figures, class_table, write_confusion
        from fsg.training.evaluate import evaluate_on

        result = evaluate_on(target, dataset, data_dir=data_dir, best=best, show=status.update)
    matrix, names = np.array(result["confusion"]), result["class_names"]
    if as_json:
        classes = [figures._asdict() for figures in class_figures(matrix, names)]
        click.echo(json.dumps({**result, "classes": classes}))
    else:
        click.echo(f"{target}: accuracy {result['accuracy']:.2%} on {result['samples']} images of {result['dataset']}")
        print_table(class_table(matrix, names))
    for note in result.get("notes", ()):
        click.echo(note, err=True)
    if confusion:
        write_confusion(confusion, matrix, names)
    for doubt in export_doubts(target):
        click.echo(doubt, err=True)


@click.command()
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


@click.command()
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
