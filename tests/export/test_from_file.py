"""A packed-sign file as the source of an export: no run, no PyTorch, and nothing lost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import exact
from nodes import convolution, floats, many_operators, node, of_nodes
from test_packed import GOLDEN, METADATA
from test_small_installation import CONVERTER, ONNX, in_small_installation
from torch import nn

from fsg import FsgError
from fsg.export import artefacts
from fsg.export import graph as g
from fsg.export.formats.packed import to_packed
from fsg.export.from_file import export_packed
from fsg.export.pipeline import export_model
from fsg.runtime.measure.local import benchmark
from fsg.runtime.model.files import exported_facts
from fsg.runtime.model.metadata import read_metadata
from fsg.runtime.model.session import open_model
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d

EVERY = ("tflite", "onnx", "packed", "c")
CLASSES = [f"digit {i}" for i in range(10)]


@pytest.fixture
def source(tmp_path):
    """The golden file, under a name of its own."""
    return Path(shutil.copy(GOLDEN, tmp_path / "tiny.fsg"))


@pytest.fixture
def digits(tmp_path):
    """A file for the images of the data set `digits_npz`."""
    layers = [nn.Conv2d(3, 8, 3, 2), BinaryActivation(), BinaryConv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    known = {"mean": [0.5] * 3, "std": [0.25] * 3, "class_names": CLASSES, "model": "own", "activation_bits": 1}
    model = exact(nn.Sequential(*layers, nn.Linear(16, 10)))
    export_model(model, (3, 16, 16), tmp_path / "first", ["packed"], metadata=known)
    (tmp_path / "first" / "report.json").unlink()
    return tmp_path / "first" / "model.fsg"


def test_every_format_of_a_file(source, tmp_path):
    report = export_packed(source, EVERY, verify="deep")
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("model.c", "model.fsg", "model.h", "model.onnx", "model.tflite", "report.json", "tiny.fsg")
    ]
    assert source.read_bytes() == GOLDEN.read_bytes() == (tmp_path / "model.fsg").read_bytes()
    assert report["layers"] == {"bitwise": 1, "float": 1} and report["source"] == str(source)
    assert report["float_size_bytes"] == 4 * (2 * 5 * 8 + 2 + 2 + 6 + 3)
    assert [artefact["writer"] for artefact in report["artefacts"]] == ["direct", "onnx", "packed", "c"]
    images = np.random.default_rng(1).standard_normal((5, 5, 4, 6), np.float32)
    for artefact in report["artefacts"]:
        verify = artefact["verify"]
        assert (verify["samples"], verify["source"], verify["top1_agreement"]) == (64, "tiny.fsg", 1)
        assert verify["values_compared"] > 2 and not verify.keys() & {"accuracy", "torch_accuracy", "dataset"}
        path = Path(artefact["path"])
        assert read_metadata(path) == METADATA and not exported_facts(path)
        np.testing.assert_allclose(open_model(path)(images), open_model(source)(images), rtol=1e-5, atol=1e-5)


def test_batches_and_files_without_metadata(source, tmp_path):
    export_packed(source, ["tflite"], tmp_path / "four", batch=4)
    assert read_metadata(tmp_path / "four" / "model.tflite") == METADATA | {"input_shape": [4, 5, 4, 6]}
    assert open_model(tmp_path / "four" / "model.tflite").batch == 4
    source.write_bytes(to_packed(many_operators(), {}))
    report = export_packed(source, EVERY, tmp_path / "bare")
    assert [read_metadata(artefact["path"]) for artefact in report["artefacts"]] == [{}, {}, {}, {}]
    assert report["float_size_bytes"] == sum(
        4 * value.size for n in many_operators().nodes for value in vars(n).values() if isinstance(value, np.ndarray)
    )


def test_real_images(digits, digits_npz, fsg):
    code, out, err = fsg("export", digits, "--format", "onnx", "--format", "tflite", "--dataset", f"npz:{digits_npz}")
    assert code == 0 and f"Compared with model.fsg on 260 test images of npz:{digits_npz}" in " ".join(out.split()), err
    accuracy = json.loads(fsg("eval", digits, "--dataset", f"npz:{digits_npz}", "--json")[1])["accuracy"]
    report = json.loads((digits.parent / "report.json").read_text())
    assert (report["model"], report["activation_bits"]) == ("own", 1) and "dataset" not in report
    for artefact in report["artefacts"]:
        verify = artefact["verify"]
        assert (verify["samples"], verify["dataset"]) == (260, f"npz:{digits_npz}")
        assert verify["source_accuracy"] == accuracy and abs(verify["accuracy"] - accuracy) < 0.02
        assert read_metadata(artefact["path"]) == read_metadata(digits)
        record = benchmark(artefact["path"], runs=1, warmup=0)
        assert (record["accuracy"], record["dataset"]) == (verify["accuracy"], f"npz:{digits_npz}")


def test_beside_its_run(earlier_run, fsg, refused, tmp_path):
    """What the report says of the run stays; a file that the report does not know has to go elsewhere."""
    assert fsg("export", earlier_run, "--format", "packed", "--format", "tflite")[0] == 0
    folder = earlier_run / "export"
    before = json.loads((folder / "report.json").read_text())
    code, out, err = fsg("export", folder / "model.fsg", "--format", "onnx")
    assert code == 0 and "compared with PyTorch on" in " ".join(out.split()), err
    report = json.loads((folder / "report.json").read_text())
    onnx, *others = report["artefacts"]
    assert onnx["format"] == "onnx" and onnx["verify"]["source"] == "model.fsg"
    assert others == before["artefacts"] and report | {"artefacts": []} == before | {"artefacts": []}
    assert fsg("report", earlier_run)[0] == 0
    page = (earlier_run / "report.html").read_text()
    assert "model.onnx: compared with model.fsg on 64 random images" in page and "decisions are model.fsg&#39;s" in page
    shutil.copy(GOLDEN, folder / "other.fsg")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "is of a run, and not of" in refused("export", folder / "other.fsg")
    assert content == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert fsg("export", folder / "other.fsg", "--out", tmp_path / "elsewhere")[0] == 0


def test_without_a_run_formats_join_in_one_report(source, tmp_path):
    export_packed(source, ["tflite"])
    report = export_packed(source, ["onnx"])
    assert [artefact["format"] for artefact in report["artefacts"]] == ["onnx", "tflite"]
    source.write_bytes(to_packed(many_operators(), {}))
    assert [artefact["format"] for artefact in export_packed(source, ["onnx"])["artefacts"]] == ["onnx"]


def test_what_is_refused(digits, digits_npz, refused, tmp_path):
    data = ["--dataset", f"npz:{digits_npz}"]
    assert "would be written over itself" in refused("export", digits, "--format", "packed")
    other = tmp_path / "link"
    other.symlink_to(digits.parent)
    assert "would be written over itself" in refused("export", digits, "--format", "packed", "--out", other)
    assert "--data-dir says where the images of --dataset are" in refused("export", digits, "--data-dir", tmp_path)
    assert "--opset is of .onnx files" in refused("export", digits, "--opset", "18")
    assert "--batch free is of .onnx files" in refused("export", digits, "--batch", "free")
    assert "--writer is of .tflite files" in refused("export", digits, "--writer", "lce", "--format", "onnx")
    assert "takes images of [3, 16, 16], but the data set has [3, 32, 32]" in refused(
        "export", digits, "--dataset", "digits"
    )
    assert "unknown data set 'digit'" in refused("export", digits, "--dataset", "digit")
    assert "cannot be read (No such file" in refused("export", tmp_path / "none.fsg")
    assert "is not a run" in refused("export", tmp_path / "none.tflite")
    content = digits.read_bytes()
    for name in (b"mean", b"digit 3"):
        digits.write_bytes(content.replace(name, name[::-1]))
        refused("export", digits, *data)
    for damaged in (content[:-4], b"", content.replace(b"Sign", b"Sigh")):
        digits.write_bytes(damaged)
        assert "truncated or damaged" in refused("export", digits)
    assert [path.name for path in digits.parent.iterdir()] == ["model.fsg"]


def test_files_without_results(tmp_path, refused):
    path = tmp_path / "model.fsg"
    path.write_bytes(to_packed(of_nodes((2, 3, 3), node(g.Elementwise, operator="Log", settings={})), {}))
    assert "its results are not finite on these images; give images" in refused("export", path)
    path.write_bytes(to_packed(of_nodes((2, 3, 3)), {}))
    assert "its result is the image itself" in refused("export", path)


@pytest.mark.parametrize(
    "nodes",
    [
        [node(g.Affine, scale=floats(1), bias=floats(1)), node(g.PReLU, slope=floats(1))],
        [node(g.Reduce, 1, 3, operator="mean", axes=(1, 2)), node(g.Reduce, 1, operator="sum", axes=(1,))],
        [convolution(g.Conv, 3, 1, 3), node(g.Reduce, 1, 1, operator="mean", axes=(2, 3))],
        [node(g.Sign, name="logits"), convolution(g.BinaryConv, 3, 4, 3, padding_value=0.5, padding=(0, 0))],
    ],
    ids=["once for all channels", "one number", "one class", "a name of the writers'"],
)
def test_odd_files(nodes, tmp_path):
    path = tmp_path / "odd.fsg"
    path.write_bytes(to_packed(of_nodes((3, 5, 3), *nodes), {}))
    report = export_packed(path, EVERY, verify="deep")
    assert [artefact["verify"]["top1_agreement"] for artefact in report["artefacts"]] == [1, 1, 1, 1]


def test_a_file_that_disagrees_changes_nothing(source, tmp_path, monkeypatch):
    write = artefacts.to_tflite

    def wrong(graph, **how):
        last = graph.nodes[-1]
        return write(g.BinaryGraph((*graph.nodes[:-1], replace(last, bias=last.bias[::-1]))), **how)

    monkeypatch.setattr(artefacts, "to_tflite", wrong)
    with pytest.raises(FsgError, match=r"model.tflite disagrees with tiny.fsg on 64 images: .*nothing was exported"):
        export_packed(source, EVERY)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.fsg"]


def test_neither_torch_nor_a_converter_is_needed(digits, digits_npz):
    program = "from fsg.cli import main\nmain()"
    blocked = ("torch", "torchvision", *CONVERTER, *ONNX)
    arguments = ["export", digits, "--dataset", f"npz:{digits_npz}", "--verify", "deep"]
    result = in_small_installation(program, *arguments, "--format", "tflite", blocked=blocked)
    assert result.returncode == 0, result.stderr
    assert open_model(digits.with_name("model.tflite")).metadata["class_names"] == CLASSES
    for more, told in (
        (["--format", "onnx"], "needs the package onnx: pip install 'fsg[export]'"),
        (["--writer", "lce"], "needs the package larq_compute_engine: pip install 'fsg[lce]'"),
    ):
        result = in_small_installation(program, *arguments, *more, "--out", digits.parent / "new", blocked=blocked)
        assert result.returncode == 2 and told in result.stderr and result.stderr.count("\n") == 1, result.stderr
        assert not (digits.parent / "new").exists()
