"""What the files beside a model file say of it, and when they must not be believed."""

import hashlib
import json

import pytest

from fsg import FsgError
from fsg.runtime.model.files import export_doubts, exported_facts, model_files, read_object, read_rows


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def export(tmp_path):
    """The export folder of a run with a space in its name: a model file, its report, the run's checkpoint."""
    folder = tmp_path / "my net" / "export"
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(b"1234TFL3")
    (folder.parent / "checkpoint.pt").write_bytes(b"weights")
    artefact = {"format": "tflite", "path": "my net/export/model.tflite", "size_bytes": 8}
    artefact |= {"sha256": digest(b"1234TFL3"), "verify": {"accuracy": 0.75}}
    report = {"checkpoint": digest(b"weights"), "dataset": "digits", "float_size_bytes": 99, "artefacts": [artefact]}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_an_export_as_it_was_written_is_known(export):
    facts = {"accuracy": 0.75, "dataset": "digits", "float_size_bytes": 99}
    assert exported_facts(export / "model.tflite") == facts
    assert export_doubts(export / "model.tflite") == []


def test_another_file_of_the_same_name_and_size_has_no_accuracy(export):
    (export / "model.tflite").write_bytes(b"1235TFL3")
    assert exported_facts(export / "model.tflite") == {}
    (doubt,) = export_doubts(export / "model.tflite")
    assert "is not the file that fsg export checked" in doubt
    assert doubt.endswith(f"fsg export '{export.parent}' --format tflite renews it")


def test_an_export_older_than_its_run_is_said_to_be(export):
    (export.parent / "checkpoint.pt").write_bytes(b"more weights")
    (doubt,) = export_doubts(export / "model.tflite")
    assert "is older than its run, which was trained on since" in doubt
    assert exported_facts(export / "model.tflite")["accuracy"] == 0.75  # of that file it is right


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"artefacts": 3}', '{"artefacts": [3, {"path": null}]}'])
def test_a_report_that_says_nothing_of_the_file(export, content):
    (export / "report.json").unlink()
    if content is not None:
        (export / "report.json").write_text(content)
    assert exported_facts(export / "model.tflite") == {} and export_doubts(export / "model.tflite") == []


def test_a_report_without_digests_vouches_for_nothing(export):
    report = json.loads((export / "report.json").read_text())
    del report["artefacts"][0]["sha256"]
    (export / "report.json").write_text(json.dumps(report))
    assert exported_facts(export / "model.tflite") == {}
    assert "its accuracy is not known" in export_doubts(export / "model.tflite")[0]


def test_targets_are_files_runs_and_export_folders(export):
    model = export / "model.tflite"
    assert model_files([model, export, export.parent]) == (model,)
    (export / "model.onnx").write_bytes(b"")
    assert model_files([export]) == (model, export / "model.onnx")
    assert model_files([export], "tflite") == (model,)
    model.unlink()
    with pytest.raises(FsgError, match=r"nothing exported as \.tflite, which this device runs: fsg export '.*my net'"):
        model_files([export.parent], "tflite")


def test_readers_name_the_file(tmp_path):
    path = tmp_path / "file"
    assert read_object(path) == {} and read_rows(path) == []
    path.write_text("epoch,loss\n1,high\n")
    with pytest.raises(FsgError, match="file: cannot be read"):
        read_rows(path)
    with pytest.raises(FsgError, match="file: cannot be read"):
        read_object(path)
