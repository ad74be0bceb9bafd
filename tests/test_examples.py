"""What examples/ shows runs as it stands, and reaches what it promises."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Copies an example, and runs its run.sh there with this installation's programs; returns the folder and stdout."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FSG_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PETS", raising=False)

    def start(name):
        folder = shutil.copytree(EXAMPLES / name, tmp_path / name)
        return folder, output(folder, "sh", "run.sh")

    return start


def output(folder, *command):
    child = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


def report(folder):
    """What an export's report says of each file's comparison with PyTorch, by its name."""
    content = json.loads((folder / "export" / "report.json").read_text())
    return {Path(entry["path"]).name: entry["verify"] for entry in content["artefacts"]}


def test_own_pictures(run):
    folder, said = run("own_pictures")
    entry = report(folder / "runs/pets")["model.tflite"]
    assert entry["accuracy"] > 0.9 and entry["top1_agreement"] == 1
    assert "pets/circle/000.png" in said and "fsg bench runs/pets --device rpi4 --host" in said
    assert said.count("measured") == 1 and said.count("estimated") >= 1
    assert (folder / "model.tflite").read_bytes() == (folder / "runs/pets/export/model.tflite").read_bytes()

    pictures = sorted(str(path.relative_to(folder)) for path in folder.glob("pets/*/*0.png"))
    answers = [line.split() for line in output(folder, sys.executable, "on_the_board.py", *pictures).splitlines()]
    assert [name for name, _ in answers] == pictures and len(pictures) == 45
    assert sum(name.split("/")[1] == answer for name, answer in answers) > 40
    rows = map(json.loads, output(folder, "fsg", "predict", "runs/pets", *pictures, "--json").splitlines())
    assert [answer for _, answer in answers] == [row["predictions"][0]["class"] for row in rows]


def test_own_network(run):
    folder, said = run("own_network")
    assert "3.shortcut.0" in said and "1x1 shortcut" in said
    for name, files in (
        ("make", {"model.tflite", "model.onnx", "model.c"}),
        ("make_binary", {"model.tflite", "model.c"}),
    ):
        entries = report(folder / "runs" / name)
        assert set(entries) == files and all((folder / "runs" / name / "export" / file).is_file() for file in files)
        assert all(entry["accuracy"] > 0.9 for entry in entries.values()), entries
    assert said.count("measured") == 5
