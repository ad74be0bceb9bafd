"""`fsg predict`: what a trained network sees on pictures in files."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from fsg import FsgError, expanded, make_folder, why
from fsg.terminal import make_console

if TYPE_CHECKING:
    from fsg.runtime.model.predict import File, Model, Prediction

COLUMNS = 5  # predictions in a line
COPY = ".predicted.png"  # what names of copies end in: they take no picture's place


class Place(NamedTuple):
    """A picture: its file, "-" for standard input, and where in --save DIR its copy goes."""

    path: str
    copy: Path


@click.command()
@click.argument("source", metavar="RUN|FILE")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", default=1, show_default=True, type=click.IntRange(min=1), help="Classes; a line has at most 5.")
@click.option("--json", "as_json", is_flag=True, help="Print an object of JSON in each line.")
@click.option("--save", type=click.Path(path_type=Path), help="Folder for copies with the classes beneath.")
def predict(source: str, images: tuple[str, ...], top: int, as_json: bool, save: Path | None) -> int:
    """Say what a trained network sees on pictures.

    FILE is a .tflite, .onnx, .fsg or .c; of a RUN its exported model.tflite is taken, or else its checkpoint. IMAGE is
    a picture, a folder with pictures in it or in its subfolders, or - for a picture from standard input. A line has the
    picture, its class, and the probability that the network gives it.
    """
    model, path = open_source(expanded(source))
    problems: list[str] = []
    places = list(dict.fromkeys(all_places(images, problems.append)))
    if not places:
        raise nothing(problems)
    targets = copies(places, save) if save else {}
    # A bar and lines would overwrite each other on one terminal.
    held: list[str] = []
    say: Callable[[str], object] = held.append if sys.stdout.isatty() else click.echo
    line = json_line if as_json else line_of(places, model)
    readable = 0
    for place, found in predictions(model, places, keep=save is not None):
        if isinstance(found, FsgError):
            problems.append(str(found))
            continue
        readable += 1
        say(line(place, found, top))
        if save:
            save_copy(found, targets[place], top)
    if not readable:
        raise nothing(problems)
    for text in held:
        click.echo(text)
    for problem in problems:
        click.echo(f"passed over: {problem}", err=True)
    if path:
        from fsg.runtime.model.files import export_doubts

        for doubt in export_doubts(path):
            click.echo(doubt, err=True)
    return 2 if problems else 0


def open_source(source: Path) -> "tuple[Model, Path | None]":
    """The network of a run or a model file, and the file, if it is one."""
    from fsg.runtime.model.files import exported_in
    from fsg.runtime.model.predict import Model, load

    source = exported_in(source)
    path = source / "export" / "model.tflite" if source.is_dir() else source
    if path.is_file() or not source.is_dir():
        return load(path), path
    from fsg.training.folder import checked_run

    checked_run(source)
    from fsg.training.run import open_run

    return Model(open_run(source)), None


def all_places(images: tuple[str, ...], failed: Callable[[str], object]) -> Iterator[Place]:
    """The pictures that were asked for; of folders all that are in them but copies of --save."""
    from fsg.runtime.pictures import picture_files, pillow

    pillow("fsg predict")
    for name in images:
        folder = expanded(name)
        if name == "-" or not folder.is_dir():
            yield Place(name, Path("stdin" if name == "-" else folder.name))
            continue
        try:
            found, others = picture_files(folder)
        except FsgError as error:
            failed(str(error))
            continue
        found = [path for path in found if not path.name.endswith(COPY)]
        if not found:
            failed(f"{name}: has no pictures; put files in it that Pillow can read, such as .png and .jpg")
        elif others:
            click.echo(f"{name}: {len(others)} files in it are no pictures, such as {others[0]}", err=True)
        yield from (Place(str(path), path.relative_to(folder)) for path in found)


def nothing(problems: list[str]) -> FsgError:
    """What is said where no picture can be read."""
    more = f" ({len(problems) - 1} more cannot be read either)" if len(problems) > 1 else ""
    return FsgError(problems[0] + more)


def predictions(model: "Model", places: list[Place], *, keep: bool) -> "Iterator[tuple[Place, Prediction | FsgError]]":
    """What the network sees on each picture, with a bar on stderr where there are many."""
    from rich.progress import Progress

    from fsg.runtime.model.predict import BATCH

    console = make_console()
    bar = Progress(console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    bar.disable = len(places) <= BATCH or not console.is_terminal
    with bar:
        task, start = bar.add_task("pictures", total=len(places)), 0
        for found in model.predictions([opened(place) for place in places], keep=keep):
            yield from zip(places[start : start + len(found)], found, strict=True)
            start += len(found)
            bar.update(task, completed=start)


def opened(place: Place) -> "File":
    from fsg.runtime.model.predict import File

    if place.path == "-":
        return File(io.BytesIO(sys.stdin.buffer.read()), "standard input")
    return File(expanded(place.path), place.path)


def json_line(place: Place, found: "Prediction", top: int) -> str:
    ranking = [{"class": name, "probability": chance} for name, chance in found.ranking[:top]]
    return json.dumps({"file": place.path, "predictions": ranking})


def line_of(places: list[Place], model: "Model") -> "Callable[[Place, Prediction, int], str]":
    """Lines whose columns stand beneath each other."""
    from rich.cells import cell_len, set_cell_size

    widest, classes = (max(map(cell_len, names)) for names in ([place.path for place in places], model.classes))

    def line(place: Place, found: "Prediction", top: int) -> str:
        shown = found.ranking[: min(top, COLUMNS)]
        columns = (f"{set_cell_size(name, classes)} {chance:7.2%}" for name, chance in shown)
        return "  ".join([set_cell_size(place.path, widest), *columns])

    return line


def copies(places: list[Place], save: Path) -> dict[Place, Path]:
    """Where the copy of each picture goes, all of other names."""
    targets: dict[Path, Place] = {}
    for place in places:
        stem, number = place.copy.stem, 1
        while (target := save / place.copy.with_name(stem + COPY)) in targets:
            number += 1
            stem = f"{place.copy.stem}-{number}"
        targets[target] = place
    return {place: target for target, place in targets.items()}


def save_copy(found: "Prediction", target: Path, top: int) -> None:
    from fsg.runtime.pictures import captioned

    assert found.pixels is not None
    make_folder(target.parent)
    caption = [f"{name} {chance:.1%}" for name, chance in found.ranking[: min(top, COLUMNS)]]
    try:
        captioned(found.pixels, caption).save(target)
    except OSError as error:
        raise FsgError(f"cannot write {target}: {why(error)}; choose another folder") from error
