"""From a run to verified files, and a folder that nothing wrong reaches."""

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits

from fsg import FsgError
from fsg.export import artefacts, pipeline
from fsg.export.formats import onnx as onnx_writer
from fsg.export.graph import BinaryGraph
from fsg.export.options import FORMATS
from fsg.export.pipeline import export_run
from fsg.export.table import export_table
from fsg.runtime.measure.local import benchmark
from fsg.runtime.model.evaluate import evaluate
from fsg.runtime.model.files import SUFFIXES
from fsg.runtime.model.metadata import read_metadata
from fsg.runtime.model.session import open_model
from fsg.training.config import Config, save_config
from fsg.training.data.load import load_dataset
from fsg.training.loop import train
from fsg.training.run import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """One short epoch on scikit-learn's digits at 16x16 pixels in three colours."""
    folder = tmp_path_factory.mktemp("run")
    digits = load_digits()
    pixels = np.repeat(np.repeat(digits.images * 15.9, 2, 1), 2, 2).astype(np.uint8)
    colours = np.stack([pixels, 255 - pixels, pixels // 2], 1)
    np.savez(
        folder / "data.npz",
        **{"x_train": colours[300:1200], "y_train": digits.target[300:1200]},
        **{"x_test": colours[:300], "y_test": digits.target[:300]},
    )
    config = Config(method="ste", dataset=f"npz:{folder / 'data.npz'}", epochs=1, batch_size=32, device="cpu")
    save_config(config, folder / "config.toml")
    train(config, folder, Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory):
    """All formats: (report, folder, what was said on the way)."""
    folder, steps = tmp_path_factory.mktemp("exported") / "new" / "export", []
    report = export_run(open_run(run_folder), FORMATS, folder, on_step=steps.append)
    return report, folder, steps


@pytest.fixture
def run(run_folder):
    return open_run(run_folder)


@pytest.fixture
def folder(tmp_path):
    """A folder with files of an earlier export."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("model.tflite", "model.onnx", "report.json", "notes.txt"):
        (folder / name).write_text(f"old {name}")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_report(exported, run):
    report, folder, steps = exported
    assert json.loads((folder / "report.json").read_text()) == report
    assert sorted(path.name for path in folder.iterdir()) == [
        *("model.c", "model.fsg", "model.h", "model.onnx", "model.tflite", "report.json")
    ]
    assert report["hypernetwork_parameters_discarded"] == 0
    assert report["float_size_bytes"] == sum(
        4 * v.numel() for v in run.model.state_dict().values() if v.is_floating_point()
    )
    assert report["layers"] == {"bitwise": 18, "float": 4}
    assert (report["model"], report["activation_bits"]) == ("resnet20", 1)
    tflite, onnx_file, packed, c = report["artefacts"]
    assert [artefact["format"] for artefact in report["artefacts"]] == ["tflite", "onnx", "packed", "c"]
    assert tflite["ops"]["LceBconv2d"] == 18 and tflite["ops"]["CONV_2D"] == 3 and tflite["ops"]["FULLY_CONNECTED"] == 1
    assert onnx_file["ops"]["Conv"] == 21 and onnx_file["ops"]["BitwiseAnd"] == 18
    assert packed["ops"]["BinaryConv"] == packed["ops"]["Sign"] == 18 and packed["size_bytes"] < tflite["size_bytes"]
    assert c["ops"]["fsg_binary_convolution"] == 18 and c["size_bytes"] < packed["size_bytes"]
    assert c["arena_bytes"] < 96_000
    for artefact in report["artefacts"]:
        known = {"format", "path", "writer", "size_bytes", "bytes", "sha256", "ops", "verify"}
        assert artefact.keys() == known | ({"arena_bytes"} if artefact is c else set())
        path = folder / f"model{SUFFIXES[artefact['format']]}"
        assert artefact["path"] == str(path) and artefact["size_bytes"] == (
            path.stat().st_size if artefact is not c else c["size_bytes"]
        )
        assert artefact["size_bytes"] * 10 < report["float_size_bytes"]
        parts = artefact["bytes"]
        assert sum(parts.values()) == artefact["size_bytes"] and parts["int8"] == 0
        assert 33_000 < parts["bits"] < 36_000 and 20_000 < parts["float32"] < 21_000
        verify = artefact["verify"]
        assert verify["samples"] == 300 and verify["torch_accuracy"] > 0.15
        assert verify["top1_agreement"] >= 0.97 and verify["median_abs_diff"] < 1e-5
        assert verify["max_abs_diff"] >= verify["median_abs_diff"]
        assert abs(verify["accuracy"] - verify["torch_accuracy"]) < 0.03
    assert len(steps) == 10 and "converting to onnx" in steps


def test_the_files_give_the_reported_accuracy_on_raw_images(exported, run):
    report, folder, _ = exported
    data = load_dataset(run.config.dataset, test_only=True)
    for artefact in report["artefacts"]:
        session = open_model(folder / f"model{SUFFIXES[artefact['format']]}")
        assert session.metadata == run.metadata == read_metadata(session.path)
        result = evaluate(session, data.x_test, data.y_test, data.class_names)
        assert result["accuracy"] == artefact["verify"]["accuracy"]


def test_the_table(exported):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(export_table(exported[0]))
    text = capture.get()
    assert "model.tflite" in text and "model.onnx" in text and "18 of 22" in text


def test_an_artefact_that_disagrees_changes_nothing(run, folder, tmp_path, monkeypatch):
    def wrong(graph, metadata, **how):
        proto = onnx.load_from_string(onnx_writer.to_onnx(graph, metadata, **how))
        tensor = next(t for t in proto.graph.initializer if t.name == "layer3.1.conv1.scale")
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * -1, tensor.name))
        return proto.SerializeToString()

    monkeypatch.setattr(artefacts, "to_onnx", wrong)
    monkeypatch.setattr(artefacts, "to_tflite", lambda graph, **how: pytest.fail("onnx comes first"))
    before = content(folder)
    with pytest.raises(
        FsgError, match=r"model\.onnx disagrees with PyTorch on 300 test images: .*nothing was exported"
    ):
        export_run(run, ("onnx", "tflite"), folder)
    assert content(folder) == before
    with pytest.raises(FsgError):
        export_run(run, ("onnx",), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_good_artefact_waits_for_the_others(run, folder, monkeypatch):
    def refuse(graph, **how):
        raise FsgError("cannot export fc")

    monkeypatch.setattr(artefacts, "to_tflite", refuse)
    before = content(folder)
    with pytest.raises(FsgError, match="cannot export fc"):
        export_run(run, ("onnx", "tflite"), folder)
    assert content(folder) == before


@pytest.mark.parametrize(("package", "extra"), [("onnx", "export"), ("tensorflow", "lce")])
def test_a_missing_package_changes_nothing(package, extra, run, folder, monkeypatch):
    before, how = content(folder), {"writer": "lce"} if extra == "lce" else {}
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FsgError, match=rf"needs the package {package}: pip install 'fsg\[{extra}\]'"):
        export_run(run, ("tflite" if how else "onnx",), folder, **how)
    assert content(folder) == before


def test_a_graph_that_was_read_wrongly_is_noticed_first(run, folder, monkeypatch):
    def wrong(graph):
        nodes = [replace(n, padding_value=0.0) if hasattr(n, "padding_value") else n for n in graph.nodes]
        return BinaryGraph(tuple(nodes))

    monkeypatch.setattr(pipeline, "simplify", wrong)
    before = content(folder)
    with pytest.raises(FsgError, match="the graph read from the model disagrees with PyTorch"):
        export_run(run, ("onnx",), folder)
    assert content(folder) == before


def test_the_version_of_onnx_is_asked_for(run, folder):
    before = content(folder)
    for formats, opset, message in [
        (("tflite",), 18, r"--opset is of \.onnx files"),
        (("onnx",), 17, r"--opset 17: this network needs at least 18, which first has its BitwiseAnd"),
        (("onnx",), 10_000, r"--opset 10000: onnx .* knows none newer than \d+"),
    ]:
        with pytest.raises(FsgError, match=message):
            export_run(run, formats, folder, opset=opset)
        assert content(folder) == before
    for opset, expected in [(None, 18), (21, 21)]:
        export_run(run, ("onnx",), folder, opset=opset)
        assert onnx.load(folder / "model.onnx").opset_import[0].version == expected


@pytest.mark.parametrize(("batch", "measured"), [(7, 7), (None, 1)])
def test_batches(batch, measured, run, folder):
    before = content(folder)
    for formats in (("tflite",), ("onnx", "tflite")):
        if batch is None:
            with pytest.raises(FsgError, match=r"--batch free is of \.onnx files.*: give --format onnx alone"):
                export_run(run, formats, folder, batch=batch)
            assert content(folder) == before
        else:
            artefact = export_run(run, formats, folder, batch=batch)["artefacts"][-1]
            assert (artefact["writer"], artefact["verify"]["samples"]) == ("direct", 300)
            assert open_model(folder / "model.tflite").batch == batch
    report = export_run(run, ("onnx",), folder, batch=batch)
    verify = report["artefacts"][0]["verify"]
    assert verify["samples"] == 300 and verify["median_abs_diff"] < 1e-5
    path = folder / "model.onnx"
    session, data = open_model(path), load_dataset(run.config.dataset, test_only=True)
    assert (session.batch, session.metadata["input_shape"]) == (measured, [batch, 3, 16, 16])
    assert evaluate(session, data.x_test, data.y_test, data.class_names)["accuracy"] == verify["accuracy"]
    record = benchmark(path, runs=3, warmup=1)
    assert (record["batch"], record["accuracy"]) == (measured, verify["accuracy"])


def test_old_files_are_replaced_and_others_stay(run, folder):
    report = export_run(run, ("onnx",), folder)
    assert sorted(content(folder)) == ["model.onnx", "model.tflite", "notes.txt", "report.json"]
    assert open_model(folder / "model.onnx").metadata == run.metadata
    assert json.loads((folder / "report.json").read_text()) == report
    assert content(folder)["notes.txt"] == b"old notes.txt"


def test_a_file_in_the_way(run, tmp_path):
    (tmp_path / "export").write_text("a file")
    with pytest.raises(FsgError, match="export"):
        export_run(run, ("onnx",), tmp_path / "export")
    (tmp_path / "other" / "model.onnx").mkdir(parents=True)
    with pytest.raises(FsgError, match="cannot write"):
        export_run(run, ("onnx",), tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["model.onnx"]


def test_test_images_of_another_shape(run, tmp_path):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "other.npz", x_test=images, y_test=labels)
    other = replace(run, config=replace(run.config, dataset=f"npz:{tmp_path / 'other.npz'}"))
    with pytest.raises(FsgError, match=r"images are \[1, 8, 8\], the run was trained on \[3, 16, 16\]"):
        export_run(other, ("onnx",), tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("rule", ["no state of any rule", {"fast": torch.full((9, 9), float("nan"))}])
def test_the_hypernetworks_are_not_read(rule, run_folder, exported, tmp_path):
    state = torch.load(run_folder / "checkpoint.pt", weights_only=True)
    torch.save(state | {"rule": rule, "hypernetwork_parameters": 4321}, tmp_path / "checkpoint.pt")
    (tmp_path / "config.toml").write_bytes((run_folder / "config.toml").read_bytes())
    report = export_run(open_run(tmp_path), ("onnx",), tmp_path / "export")
    assert report["hypernetwork_parameters_discarded"] == 4321
    assert (tmp_path / "export" / "model.onnx").read_bytes() == (exported[1] / "model.onnx").read_bytes()


def test_an_export_of_one_format_leaves_those_of_the_same_weights_in_the_report(run, tmp_path):
    for names, writer in ((("onnx",), "auto"), (("tflite",), "direct")):
        report = export_run(run, names, tmp_path, writer=writer, verify="deep")
    assert [(artefact["format"], artefact["writer"]) for artefact in report["artefacts"]] == [
        ("tflite", "direct"),
        ("onnx", "onnx"),
    ]
    assert all(artefact["verify"]["values_compared"] > 30 for artefact in report["artefacts"])
    (tmp_path / "model.onnx").write_bytes(b"another")
    report = export_run(run, ("tflite",), tmp_path, writer="direct")
    assert [artefact["format"] for artefact in report["artefacts"]] == ["tflite"]


def test_what_lces_converter_wrote_is_compared_with_what_is_written_directly(run, tmp_path, monkeypatch):
    steps = []
    report = export_run(run, ("tflite",), tmp_path / "out", verify="deep", on_step=steps.append)
    (artefact,) = report["artefacts"]
    assert artefact["writer"] == "lce" and artefact["verify"]["values_compared"] == 0
    assert "comparing model.tflite with what fsg writes directly" in steps
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".tflite"] == ["model.tflite"]
    write = artefacts.to_tflite

    def wrong(graph, writer="auto", **how):
        last = replace(graph.nodes[-1], bias=graph.nodes[-1].bias + (writer == "direct"))
        return write(type(graph)((*graph.nodes[:-1], last)), writer=writer, **how)

    monkeypatch.setattr(artefacts, "to_tflite", wrong)
    with pytest.raises(FsgError, match=r"model.tflite of LCE's converter disagrees"):
        export_run(run, ("tflite",), tmp_path / "out", verify="deep")
