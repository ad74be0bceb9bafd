"""`fsg predict` on pictures in files decides as `fsg eval` does; and what README.md and its page show is true."""

import io
import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsg import load
from fsg.runtime.model.files import file_digest
from fsg.runtime.model.session import TfliteSession

COUNT = 120  # test images, more than a batch
GOLDEN = Path(__file__).parent / "golden" / "before_rooms"  # a run on grey digits of 8x8


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with that run as runs/demo, and its test images as files in data/test."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(GOLDEN / "run", folder / "runs" / "demo")
    for name in ("tiny.py", "digits.npz"):
        shutil.copy(GOLDEN / name, folder)
    report = folder / "runs" / "demo" / "export" / "report.json"
    content = json.loads(report.read_text())
    for artefact in content["artefacts"]:  # what earlier exports did not write down
        artefact["sha256"] = file_digest(report.with_name(Path(artefact["path"]).name))
    content["checkpoint"] = file_digest(folder / "runs" / "demo" / "checkpoint.pt")
    report.write_text(json.dumps(content))
    with np.load(GOLDEN / "digits.npz") as data:
        for number, (image, label) in enumerate(zip(data["x_test"], data["y_test"], strict=True)):
            path = folder / "data" / "test" / str(label) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)
    return folder


@pytest.fixture(scope="module")
def in_colour(project):
    """That network for images in colour, as a .tflite; and coloured images, of which half are JPEGs, as a data set."""
    import torch

    from fsg.export.pipeline import export_model

    rng = np.random.default_rng(0)
    for path in (project / "data" / "test").rglob("*.png"):
        target = project / "coloured" / path.relative_to(project / "data")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as grey:
            pixels = (np.asarray(grey)[..., None] * rng.uniform(0.6, 1, 3)).astype(np.uint8)
        target = target.with_suffix(".jpg" if int(path.stem) % 2 else ".png")
        Image.fromarray(pixels).save(target)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project)
        from tiny import make
    state = torch.load(GOLDEN / "run" / "checkpoint.pt", weights_only=True)["model"]
    state["0.weight"] = state["0.weight"].repeat(1, 3, 1, 1) / 3
    network = make(10, 3)
    network.load_state_dict(state)
    metadata = {"mean": [0.3] * 3, "std": [0.38] * 3, "class_names": list("0123456789")}
    export_model(network.eval(), (3, 8, 8), project / "colour", ["tflite"], metadata=metadata, writer="direct")
    return project / "colour" / "model.tflite"


@pytest.fixture(autouse=True)
def in_project(project, monkeypatch):
    monkeypatch.chdir(project)


@pytest.fixture
def rows(fsg):
    """Runs `fsg predict --json`; returns what each line says."""

    def run(*arguments):
        code, out, err = fsg("predict", *arguments, "--json")
        assert code == 0 and not err, err
        return [json.loads(line) for line in out.splitlines()]

    return run


def hits(rows):
    return sum(row["predictions"][0]["class"] == Path(row["file"]).parent.name for row in rows)


@pytest.mark.parametrize("exported", [True, False])
def test_decisions_are_those_of_eval(fsg, rows, tmp_path, monkeypatch, project, exported):
    monkeypatch.syspath_prepend(project)
    run = Path("runs/demo")
    if not exported:
        run = shutil.copytree("runs/demo", tmp_path / "run", ignore=lambda *_: ["export"])
    target = run / "export" / "model.tflite" if exported else run
    expected = json.loads(fsg("eval", target, "--dataset", "npz:digits.npz", "--json")[1])
    found = rows(run, "data/test")
    assert len(found) == expected["samples"] == COUNT and 0.5 < expected["accuracy"] < 1
    assert hits(found) / COUNT == expected["accuracy"]
    assert [row["file"] for row in found] == sorted(str(path) for path in Path("data/test").glob("*/*.*"))
    assert rows(target, "data/test") == found


def test_decisions_are_those_of_eval_on_a_folder(fsg, rows, in_colour):
    expected = json.loads(fsg("eval", in_colour, "--dataset", "folder:coloured", "--json")[1])
    found = rows(in_colour, "coloured")
    assert len(found) == expected["samples"] == COUNT and 0.3 < expected["accuracy"] < 1
    assert hits(found) / COUNT == expected["accuracy"]
    assert {Path(row["file"]).suffix for row in found} == {".png", ".jpg"}


def test_every_picture_is_decoded_once_and_photographs_are_not_kept_together(fsg, monkeypatch, tmp_path):
    opened, sizes = [], []
    open_, call = Image.open, TfliteSession.__call__
    monkeypatch.setattr(Image, "open", lambda source: opened.append(source) or open_(source))
    monkeypatch.setattr(TfliteSession, "__call__", lambda self, x: sizes.append(len(x)) or call(self, x))
    assert fsg("predict", "runs/demo", "data/test")[0] == 0
    assert len(opened) == len(set(opened)) == COUNT and sizes == [64, COUNT - 64]
    sizes.clear()
    assert fsg("predict", "runs/demo", "data/test/3", "--save", tmp_path)[0] == 0
    assert max(sizes) == 8


def test_a_bar_is_on_stderr_alone_and_only_where_there_are_many(fsg, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    code, out, err = fsg("predict", "runs/demo", "data/test")
    assert code == 0 and "pictures" in err and "100%" in err
    monkeypatch.delenv("FORCE_COLOR")
    assert fsg("predict", "runs/demo", "data/test") == (0, out, "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert fsg("predict", "runs/demo", "data/test/3")[2] == ""


def test_lines_have_columns_and_top_adds_to_them(fsg, rows):
    files = [str(path) for name in "03" for path in sorted(Path("data/test", name).iterdir())]
    for top, columns in ((1, 1), (3, 3), (9, 5)):
        code, out, _ = fsg("predict", "runs/demo", *files, "--top", top)
        lines = out.splitlines()
        assert code == 0 and len({len(line) for line in lines}) == 1
        for line, row in zip(lines, rows("runs/demo", *files, "--top", 10), strict=True):
            ranking = row["predictions"]
            assert len(ranking) == 10 and sum(entry["probability"] for entry in ranking) == pytest.approx(1)
            expected = [row["file"]]
            for entry in ranking[:columns]:
                expected += [entry["class"], f"{entry['probability']:.2%}"]
            assert line.split() == expected


def test_a_picture_from_standard_input(rows, monkeypatch):
    path = "data/test/3/" + min(p.name for p in Path("data/test/3").iterdir())
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(Path(path).read_bytes())))
    found, again = rows("runs/demo", "-", path)
    assert (found["file"], again["file"]) == ("-", path) and found["predictions"] == again["predictions"]


def test_what_is_no_picture_is_told_passed_over_and_remembered(fsg, refused, tmp_path):
    folder = shutil.copytree("data/test/3", tmp_path / "pictures")
    count = len(list(folder.iterdir()))
    (folder / "broken.png").write_bytes((folder / min(p.name for p in folder.glob("*.png"))).read_bytes()[:60])
    (folder / "notes.txt").write_text("not a picture")
    code, out, err = fsg("predict", "runs/demo", folder, "missing.jpg", folder / "notes.txt")
    assert code == 2 and len(out.splitlines()) == count
    first, *passed = err.splitlines()
    assert first == f"{folder}: 1 files in it are no pictures, such as {folder / 'notes.txt'}"
    assert [line.split(": ")[:2] for line in passed] == [
        ["passed over", str(path)] for path in (folder / "broken.png", "missing.jpg", folder / "notes.txt")
    ]
    code, out, _ = fsg("predict", "runs/demo", folder / "notes.txt", "data/test/3", "--json")
    assert code == 2 and all(json.loads(line)["predictions"] for line in out.splitlines())

    (tmp_path / "empty").mkdir()
    assert "notes.txt: not a readable image" in refused("predict", "runs/demo", folder / "notes.txt")
    assert "missing.jpg: not a readable image (No such file or directory)" in refused(
        "predict", "runs/demo", "missing.jpg", folder / "broken.png", "--save", tmp_path / "labelled"
    )
    assert "empty: has no pictures" in refused("predict", "runs/demo", tmp_path / "empty")
    assert not (tmp_path / "labelled").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/demo"], "Missing argument 'IMAGE...'"),
        (["runs/dmeo", "a.png"], "runs/dmeo: not a model file"),
        (["data", "a.png"], "data is not a run"),
        (["missing.fsg", "a.png"], "missing.fsg: no such file"),
        (["runs/demo", "a.png", "--top", "0"], "0 is not in the range"),
    ],
)
def test_bad_input_is_one_line(refused, arguments, message):
    assert message in refused("predict", *arguments)


def test_copies_have_captions_and_take_no_pictures_place(fsg, tmp_path):
    folder = shutil.copytree("data/test", tmp_path / "pictures")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    code, out, _ = fsg("predict", "runs/demo", folder, "--save", folder)
    assert code == 0 and len(out.splitlines()) == COUNT
    copies = set(folder.rglob("*.predicted.png"))
    assert copies == {path.with_name(path.stem + ".predicted.png") for path in before}
    assert {path: path.read_bytes() for path in before} == before
    for copy in list(copies)[:3]:
        with Image.open(copy) as image:
            assert image.width >= 160 and image.height > image.width
    assert fsg("predict", "runs/demo", folder)[1] == out
    twins = [tmp_path / name / "a.png" for name in ("one", "two")]
    for path in twins:
        path.parent.mkdir()
        shutil.copy(next(iter(before)), path)
    assert fsg("predict", "runs/demo", *twins, "--save", tmp_path / "both")[0] == 0
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["a-2.predicted.png", "a.predicted.png"]
    (tmp_path / "file").write_text("")
    code, _, err = fsg("predict", "runs/demo", twins[0], "--save", tmp_path / "file")
    assert code == 2 and err.startswith("fsg: error: ") and "file" in err and err.count("\n") == 1


def test_a_file_that_is_older_than_its_run_is_told(fsg, tmp_path):
    run = shutil.copytree("runs/demo", tmp_path / "run")
    (run / "checkpoint.pt").write_bytes(b"trained on")
    code, out, err = fsg("predict", run, "data/test/3")
    assert code == 0 and out and "is older than its run" in err


def shown(path, section=""):
    """The commands and the program of a page, or of a section of it."""
    text = (Path(__file__).parents[1] / path).read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (commands,), (program,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("sh", "python"))
    return [shlex.split(line, comments=True) for line in commands.splitlines()], program


def test_readmes_program_names_the_class(fsg, monkeypatch, tmp_path, capsys):
    """Of raw pixels; `fsg.load` of the file with normalised ones names the same."""
    ((_, *words),), program = shown("README.md", "Run")
    code, _, err = fsg(*words, "--dataset", "npz:digits.npz")
    assert code == 0, err
    shutil.move("raw", tmp_path)
    model = load("runs/demo/export/model.tflite")
    files = [min(Path("data/test", name).glob("*.png")).resolve() for name in "379"]
    monkeypatch.chdir(tmp_path)
    for path in files:
        shutil.copy(path, "three.png")
        capsys.readouterr()
        exec(program, {})
        (ranking,) = model(Image.open("three.png"), labelled=True)
        assert capsys.readouterr().out.strip() == ranking[0][0]


def test_what_the_page_shows_works(fsg, monkeypatch, tmp_path):
    commands, block = shown("docs/guide/predict.md")
    shutil.copytree("runs", tmp_path / "runs")
    shutil.copytree("data/test", tmp_path / "photos")
    shutil.copy("data/test/3/" + min(p.name for p in Path("data/test/3").glob("*.png")), "three.png")
    shutil.move("three.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(commands) == 4
    for _, *words in commands:
        if "<" in words:
            source = io.BytesIO(Path(words[-1]).read_bytes())
            monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=source))
            words = words[:-2]
        code, out, err = fsg(*words)
        assert code == 0 and out, err
    names: dict = {}
    exec(block, names)
    (row,) = [json.loads(line) for line in fsg("predict", "runs/demo", "three.png", "--json")[1].splitlines()[-1:]]
    best = row["predictions"][0]
    assert names["ranking"][0] == (best["class"], best["probability"])
    assert names["logits"].shape == (1, 10) and names["logits"].argmax() == names["model"].classes.index(best["class"])
    assert (names["height"], names["width"], names["channels"]) == (8, 8, 1)
    assert np.isclose(sum(chance for _, chance in names["ranking"]), 1)
