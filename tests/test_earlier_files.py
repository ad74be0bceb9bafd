"""Files that an earlier fsg wrote, before its modules moved into rooms: they load, go on and say what they said."""

import json
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden" / "before_rooms"


@pytest.fixture
def run(earlier_run, monkeypatch):
    monkeypatch.chdir(earlier_run.parent)
    return earlier_run


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


def test_a_run_of_the_earlier_rule_is_not_trained_on(run, refused):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = refused("train", "--resume", run, "--epochs", "99", "--dataset", f"npz:{run.parent / 'digits.npz'}")
    assert "a run of FSG from before its hypernetwork became a file: it can be exported; train anew" in line
    changed = [path.name for path, content in files.items() if path.read_bytes() != content]
    assert changed in ([], ["train.log"])


def test_records_come_into_the_report(run, fsg):
    code, out, err = fsg("report", run)
    assert code == 0 and "report in" in out, err
    measured = json.loads((run / "export" / "bench.json").read_text())[0]
    assert str(measured["latency_ms"]["p50"]) in (run / "report.html").read_text()
