"""The commands as functions of Python."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import fsg
import fsg.export.pipeline
from fsg import FsgError
from fsg.runtime.measure.records import read_records
from fsg.training.config import load_config
from fsg.training.data.load import load_dataset
from fsg.training.layers import BinaryConv2d


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("face") / "run"
    return fsg.train("digits", out=folder, quiet=True, epochs=2, model="resnet8", train_images=400, seed=1)


def test_from_training_to_measurement(run, capsys):
    assert run.accuracy == run.summary["test_accuracy"] and (run.path / "checkpoint.pt").is_file()
    tflite, onnx = fsg.export(run, ["tflite", "onnx"], writer="direct", input="uint8")
    assert (tflite, onnx) == (run.path / "export" / "model.tflite", run.path / "export" / "model.onnx")
    data = load_dataset("digits")
    for path in (tflite, onnx):
        found = fsg.load(path)(data.x_test.transpose(0, 2, 3, 1)).argmax(1)
        assert np.mean(found == data.y_test) == pytest.approx(run.accuracy, abs=0.01)
    records = fsg.bench([tflite, onnx], threads=[1, 2], runs=3)
    assert [(record["format"], record["threads"]) for record in records] == [
        *(("tflite", 1), ("tflite", 2)),
        *(("onnx", 1), ("onnx", 2)),
    ]
    assert all(record["latency_ms"]["p50"] > 0 and record["accuracy"] > 0 for record in records)
    assert read_records(run.path / "export" / "bench.json") == records
    record = fsg.bench(run, runs=2, batches=2)[0]
    assert record["artefact"] == str(tflite) and record["batch"] == 2
    again = fsg.train(resume=run, epochs=3, quiet=True)
    assert again.path == run.path and again.summary["epochs"] == 3 and capsys.readouterr().out == ""


def test_any_module_of_pytorchs(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), BinaryConv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    (path,) = fsg.export(network, "packed", shape=(1, 8, 8), out=tmp_path, metadata={"mean": [0.5], "std": [0.25]})
    assert fsg.load(path)(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 4)
    (copy,) = fsg.export(path, "tflite", out=tmp_path / "more")
    assert copy == tmp_path / "more" / "model.tflite" and copy.is_file()
    with pytest.raises(FsgError, match="give shape and out"):
        fsg.export(network)


def test_where_things_are_may_be_paths_of_any_kind(run, tmp_path, monkeypatch):
    data = load_dataset("digits")
    arrays = {name: getattr(data, name)[:40] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "data.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    how = {"epochs": 1, "model": "resnet8", "flip": False, "quiet": True}
    found = fsg.train("npz:data.npz", out="run", init=run.path / "checkpoint.pt", **how)
    config = load_config(found.path / "config.toml")
    assert (config.dataset, config.flip) == (f"npz:{tmp_path / 'data.npz'}", "no")
    assert config.init == str(run.path / "checkpoint.pt")


def test_what_cannot_be_kept_is_not_lost(run):
    (path,) = fsg.export(run, "onnx")
    path.with_name("bench.json").write_text("damaged")
    with pytest.warns(UserWarning, match=r"not kept for fsg report: .*bench\.json"):
        assert fsg.bench(path, runs=2)[0]["runs"] == 2


def test_mistakes(run, tmp_path):
    with pytest.raises(FsgError, match=r"fsg\.train: unknown key 'epoch'; did you mean epochs"):
        fsg.train("digits", epoch=3)
    with pytest.raises(FsgError, match=r"fsg\.train: epochs is '3'; it must be of type int"):
        fsg.train("digits", epochs="3")
    with pytest.raises(FsgError, match="continue that run with"):
        fsg.train("digits", out=run)
    with pytest.raises(FsgError, match="leave out away"):
        fsg.train(resume=run, out=tmp_path)
    with pytest.raises(FsgError, match="no device is called pi"):
        fsg.bench(run, "pi")
    with pytest.raises(FsgError, match="say with device what they are"):
        fsg.bench(run, hosts="pi@raspberrypi.local")
    with pytest.raises(FsgError, match="no such file"):
        fsg.bench(tmp_path / "model.tflite")
    for how, message in (
        ({"input": "raw"}, "input is 'raw'; it must be one of 'float', 'uint8'"),
        ({"batch": "free"}, "batch is 'free'; it must be a number of images"),
        ({"batch": 0}, "batch is 0; it must be"),
        ({"int_8": "layers"}, "no argument int_8; did you mean int8"),
        ({"images": None}, "no argument images"),
    ):
        with pytest.raises(FsgError, match=message):
            fsg.export(run, out=tmp_path, **how)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FsgError, match="channels, height and width"):
        fsg.export(nn.Flatten(), shape=(3, 8), out=tmp_path)
    with pytest.raises(FsgError, match="epochs is '3'; it must be of type int"):
        fsg.train("digits", epochs="3")
    with pytest.raises(FsgError, match="no argument run; did you mean runs"):
        fsg.bench(run, run=3)
    with pytest.raises(FsgError, match="threads is '1,2'; give a number or a list"):
        fsg.bench(run, threads="1,2")
    with pytest.raises(AttributeError):
        fsg.nothing  # noqa: B018


def test_nothing_heavy_is_imported_before_it_is_needed():
    program = "import sys, fsg; fsg.train, fsg.bench, fsg.export; assert callable(fsg.export)\n"
    program += "assert not {'torch', 'numpy', 'ai_edge_litert'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_package_that_is_missing_is_named_with_its_extra():
    program = "import sys, fsg; sys.modules['torch'] = None\n"
    program += "try: fsg.train('digits')\nexcept fsg.FsgError as error: print(error)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout == "this needs the package torch: pip install 'fsg[train]'\n"
