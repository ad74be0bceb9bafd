"""Opening, calling and evaluating models of both formats."""

import subprocess
import sys
from pathlib import Path

import lce
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from fsg import FsgError
from fsg.runtime.model.evaluate import evaluate, normalize
from fsg.runtime.model.metadata import DESCRIPTION, add_tflite_metadata, read_metadata
from fsg.runtime.model.session import AT_ONCE, open_model
from fsg.runtime.model.tflite import op_counts

WEIGHTS = np.random.default_rng(0).choice([-1, 1], (5, 4, 6, 3))
ONES, ZEROS = np.ones(5, np.float32), np.zeros(5, np.float32)
METADATA = {"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7], "input_shape": [1, 3, 4, 6], "note": "größer"}


def expected(images):
    """Five scores of images [N, 3, 4, 6]: the whole image is the receptive field."""
    signs = np.where(images.transpose(0, 2, 3, 1) >= 0, 1, -1)
    return lce.Conv(WEIGHTS).dots(signs).reshape(-1, 5)


def tflite_model(batch=1, metadata=METADATA):
    graph = lce.Graph()
    source = graph.tensor([batch, 4, 6, 3])
    scores = graph.conv(graph.quantize(source), lce.Conv(WEIGHTS), ONES, ZEROS)
    model = graph.build([source], [scores])
    return model if metadata is None else add_tflite_metadata(model, metadata)


def onnx_model(batch=1):
    weights = numpy_helper.from_array(WEIGHTS.transpose(0, 3, 1, 2).astype(np.float32), "weights")
    limits = [numpy_helper.from_array(np.float32(v), n) for v, n in [(0, "zero"), (1, "one"), (-1, "minus")]]
    nodes = [
        helper.make_node("GreaterOrEqual", ["images", "zero"], ["positive"]),
        helper.make_node("Where", ["positive", "one", "minus"], ["signs"]),
        helper.make_node("Conv", ["signs", "weights"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 4, 6])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weights, *limits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, {"other": "x", "fsg": '{"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}'})
    return model.SerializeToString()


MODELS = {
    "one.tflite": tflite_model(),
    "four.tflite": tflite_model(batch=4),
    "one.onnx": onnx_model(),
    "any.onnx": onnx_model(batch="N"),
}


@pytest.fixture(params=MODELS)
def path(request, tmp_path):
    path = tmp_path / request.param
    path.write_bytes(MODELS[request.param])
    return path


def test_a_file_says_what_a_stock_interpreter_lacks(tmp_path):
    """And docs/guide/run.md quotes what that interpreter says, with the cure."""
    from ai_edge_litert.interpreter import Interpreter

    content = tflite_model()
    assert schema.Model.GetRootAs(content).Description().decode() == DESCRIPTION
    assert "fsg.runtime.delegate_path()" in DESCRIPTION
    with pytest.raises(RuntimeError) as caught:
        Interpreter(model_content=content).allocate_tensors()
    page = (Path(__file__).parents[3] / "docs" / "guide" / "run.md").read_text()
    for line in str(caught.value).splitlines():
        assert line in page, line

    graph = lce.Graph()
    source = graph.tensor([1, 4])
    plain = graph.build([source], [graph.builtin("RELU", [source], [1, 4])])
    (tmp_path / "plain.tflite").write_bytes(plain)
    named = schema.Model.GetRootAs(add_tflite_metadata(plain, {})).Description()
    assert named == schema.Model.GetRootAs(plain).Description()


def test_many_images_at_once_fit_into_memory(tmp_path, monkeypatch):
    path = tmp_path / "any.onnx"
    path.write_bytes(MODELS[path.name])
    session, counts = open_model(path), []
    run = session._run
    monkeypatch.setattr(session, "_run", lambda images: counts.append(len(images)) or run(images))
    images = np.random.default_rng(0).standard_normal((2 * AT_ONCE + 3, 3, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(session(images), expected(images))
    assert counts == [AT_ONCE, AT_ONCE, 3]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_scores_of_any_number_of_images(path, count):
    session = open_model(path)
    assert (session.format, session.input_shape) == (path.suffix[1:], (3, 4, 6))
    images = np.random.default_rng(count).standard_normal((count, 3, 4, 6)).astype(np.float32)
    scores = session(images)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, expected(images))
    session.invoke()
    np.testing.assert_array_equal(session(images[::-1]), scores[::-1])


def test_kernels_can_be_chosen(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(MODELS["one.tflite"])
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(open_model(path, kernels="scalar")(images), expected(images))
    with pytest.raises(FsgError, match=r'no kernels "sse9"; it has auto, .*scalar'):
        open_model(path, kernels="sse9")


def test_wrong_images(path):
    session = open_model(path, num_threads=2)
    for shape in [(1, 3, 6, 4), (3, 4, 6), (0, 3, 4, 6), (1, 1, 4, 6)]:
        with pytest.raises(FsgError, match=r"do not fit its \[N, 3, 4, 6\]"):
            session(np.zeros(shape, np.float32))


def test_evaluate(path):
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 4, 6)).astype(np.uint8)
    session = open_model(path)
    mean, std = (np.reshape(session.metadata[k], (3, 1, 1)) for k in ("mean", "std"))
    right = expected((images / 255 - mean) / std).argmax(1)
    labels = np.where(np.arange(70) % 10 < 7, right, (right + 1) % 5)
    seen: list[int] = []
    names = session.metadata["class_names"] = ["ant", "bee", "cat", "dog", "elk"]
    found = evaluate(session, images, labels, names, progress=seen.append)
    matrix = [[int(sum((labels == true) & (right == taken))) for taken in range(5)] for true in range(5)]
    assert found == {"accuracy": 49 / 70, "samples": 70, "confusion": matrix}
    assert seen == [64, 70]
    with pytest.raises(FsgError, match=r"takes images of \[3, 4, 6\], but the data set has \[1, 4, 6\]"):
        evaluate(session, images[:, :1], labels, names)
    with pytest.raises(FsgError, match="70 images with 3 labels"):
        evaluate(session, images, labels[:3], names)
    turned = evaluate(session, images, len(names) - 1 - labels, names[::-1])
    assert turned["accuracy"] == 49 / 70
    with pytest.raises(FsgError, match="knows no class 'zebra'"):
        evaluate(session, images, labels, [*names, "zebra"])
    with pytest.raises(FsgError, match=r"knows no class .0.; its classes are ant.*give the data class_names"):
        evaluate(session, images, labels, list("01234"))
    three = evaluate(session, images[labels < 3], labels[labels < 3], names[:3])
    assert three["samples"] == (labels < 3).sum()
    accents = session.metadata["class_names"] = [*names[:4], "gu\u0308n\u0303a"]
    assert evaluate(session, images, 4 - labels, [*accents[:4], "g\u00fc\u00f1a"][::-1])["accuracy"] == 49 / 70
    session.metadata["class_names"] = names[:4]
    with pytest.raises(FsgError, match="gives 5 scores for an image, but there are 4 classes"):
        evaluate(session, images, labels % 4, names[:4])
    session.metadata.clear()
    with pytest.raises(FsgError, match="no mean and std"):
        evaluate(session, images, labels, names)


def test_normalize():
    got = normalize(np.full((1, 2, 1, 1), 255, np.uint8), [0.5, 0.0], [0.25, 2.0])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.ravel(), [2.0, 0.5])
    with pytest.raises(FsgError, match=r"\[1, 2, 1, 1\] do not fit a mean and std of 3 channels"):
        normalize(np.zeros((1, 2, 1, 1), np.uint8), [0, 0, 0], [1, 1, 1])


def test_metadata(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_model())
    assert read_metadata(path) == METADATA
    path.write_bytes(tflite_model(metadata=None))
    assert read_metadata(path) == {}
    path.write_bytes(add_tflite_metadata(tflite_model(), {"model": "other"}))
    assert read_metadata(path) == {"model": "other"}
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model())
    assert read_metadata(path)["std"] == [0.5, 0.6, 0.7]
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert read_metadata(path) == {}


def test_added_metadata_keep_buffers_aligned():
    content = tflite_model()
    root = schema.Model.GetRootAs(content)
    for i in range(root.BuffersLength()):
        if root.Buffers(i).DataLength():
            vector = root.Buffers(i)._tab.Vector(root.Buffers(i)._tab.Offset(4))
            assert vector % 16 == 0


def test_metadata_of_another_model_are_noticed(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_model(metadata={"input_shape": [1, 3, 6, 4]}))
    with pytest.raises(FsgError, match=r"its input is \[3, 4, 6\] but its metadata say \[3, 6, 4\]"):
        open_model(path)
    path.write_bytes(tflite_model(metadata={"input": "uint8", "mean": [0.5] * 3}))
    with pytest.raises(FsgError, match="takes raw pixels, but its metadata lack mean or std"):
        open_model(path)


def test_op_counts(tmp_path):
    assert op_counts(tflite_model()) == {"LceQuantize": 1, "LceBconv2d": 1}
    graph = lce.Graph()
    tensors = [graph.tensor([1, 2]) for _ in range(4)]
    for code, source, target in zip(("NEG", "HARD_SWISH", "NEG"), tensors, tensors[1:], strict=False):
        graph.operator(getattr(schema.BuiltinOperator, code), [source], [target])
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.build(tensors[:1], tensors[-1:]))
    assert op_counts(path) == {"NEG": 2, "HARD_SWISH": 1}
    with pytest.raises(FsgError, match=r"not a \.tflite file"):
        op_counts(b"nonsense")


def test_files_that_are_not_models(tmp_path):
    for name, content, message in [
        ("missing.tflite", None, "no such file"),
        ("checkpoint.pt", b"x", "expected a name that ends in .tflite, .onnx, .fsg"),
        ("empty.tflite", b"", "truncated or damaged"),
        ("text.onnx", b"hello, this is not a model", "truncated or damaged|refuses"),
        ("empty.onnx", b"", "refuses this model"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(FsgError, match=message) as caught:
            open_model(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FsgError, match="num_threads is 0"):
        open_model(tmp_path / "any.tflite", num_threads=0)


def test_truncated_onnx(tmp_path):
    path = tmp_path / "model.onnx"
    model = onnx_model()
    for cut in range(0, len(model), 41):
        path.write_bytes(model[:cut])
        with pytest.raises(FsgError):
            open_model(path)


def test_onnx_without_onnxruntime(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FsgError, match=r"pip install 'fsg\[export\]'"):
        open_model(path)


def test_nothing_heavy_is_imported(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_model())
    code = (
        "import sys; import fsg.runtime.measure.local, fsg.runtime.report.table, fsg.runtime.model.evaluate\n"
        "assert not {'rich', 'ai_edge_litert'} & set(sys.modules)\n"
        f"from fsg.runtime.model.session import AT_ONCE, open_model; open_model({str(path)!r}).invoke()\n"
        "heavy = {'torch', 'tensorflow', 'onnx', 'onnxruntime', 'fsg.training', 'fsg.export'}\n"
        "bad = heavy & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
