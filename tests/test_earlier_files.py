"""Files that an earlier fsg wrote, before its modules moved into rooms: they load, go on and say what they said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden" / "before_rooms"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The run folder, with its network and data where its settings look for them."""
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace("npz:/tmp/digits.npz", f"npz:{tmp_path / 'digits.npz'}"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def report():
    return json.loads((GOLDEN / "run" / "export" / "report.json").read_text())


@pytest.mark.parametrize("file", ["", "export/model.tflite", "export/model.onnx"])
def test_runs_and_exports_have_the_accuracy_that_was_written_down(run, fsg, file):
    code, out, err = fsg("eval", run / file, "--dataset", f"npz:{run.parent / 'digits.npz'}", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == pytest.approx(report()["artefacts"][0]["verify"]["torch_accuracy"])


def test_a_run_is_exported_to_the_same_network(run, fsg):
    from fsg.runtime.model.session import open_model

    code, _, err = fsg("export", run, "--format", "onnx", "--out", run / "again")
    assert code == 0, err
    images = np.random.default_rng(0).standard_normal((20, 1, 8, 8)).astype(np.float32)
    before, after = (open_model(run / folder / "model.onnx")(images) for folder in ("export", "again"))
    np.testing.assert_array_equal(after, before)
    assert json.loads((run / "again" / "report.json").read_text())["layers"] == report()["layers"]


def test_a_run_goes_on(run, fsg):
    epochs = 1 + json.loads((run / "summary.json").read_text())["epochs"]
    code, _, err = fsg("train", "--resume", run, "--epochs", epochs, "--dataset", f"npz:{run.parent / 'digits.npz'}")
    assert code == 0, err
    rows = (run / "metrics.csv").read_text().splitlines()
    assert rows[: epochs - 1] == (GOLDEN / "run" / "metrics.csv").read_text().splitlines()[: epochs - 1]
    assert len(rows) == epochs + 1


def test_records_come_into_the_report(run, fsg):
    code, out, err = fsg("report", run)
    assert code == 0 and "report in" in out, err
    measured = json.loads((run / "export" / "bench.json").read_text())[0]
    assert str(measured["latency_ms"]["p50"]) in (run / "report.html").read_text()
