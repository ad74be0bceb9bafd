"""--input uint8: raw pixels in, normalised by the file itself."""

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, load_delegate
from torch import nn

import fsg
import fsg.runtime
from fsg import FsgError
from fsg.export.artefacts import check_settings
from fsg.export.from_file import export_packed
from fsg.export.pipeline import export_model
from fsg.runtime.library import delegate_path
from fsg.runtime.model.c import CompiledModel
from fsg.runtime.model.evaluate import evaluate, normalize, to_pixels
from fsg.runtime.model.session import open_model
from fsg.training.layers import BinaryConv2d

METADATA = {"mean": [0.49, 0.31, 0.4], "std": [0.25, 0.1, 0.3], "class_names": ["a", "b", "c", "d", "e"]}
SHAPE = (3, 9, 7)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), BinaryConv2d(16, 32, 3, padding=1))
    return nn.Sequential(*layers, nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(4).integers(0, 256, (7, *SHAPE), np.uint8)


def test_every_pixel_is_found_again():
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for mean, std in ((0.0, 1.0), (0.5, 0.01), (1.0, 3.0), (0.4465, 0.2616)):
        np.testing.assert_array_equal(to_pixels(normalize(every, [mean], [std]), [mean], [std]), every)


@pytest.mark.parametrize("how", [{}, {"int8": "layers"}, {"batch": 4}], ids=str)
def test_raw_pixels_give_what_pytorch_gives_of_normalised_ones(network, pixels, tmp_path, how):
    images = normalize(pixels, METADATA["mean"], METADATA["std"])
    plain = export_model(
        network, SHAPE, tmp_path, images=images, metadata=METADATA, verify="deep", input="uint8", **how
    )
    assert [artefact["writer"] for artefact in plain["artefacts"]] == ["direct", "onnx"]
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    close = 0.1 if how.get("int8") else 1e-4
    batch = how.get("batch", 1)
    library = load_delegate(delegate_path())
    interpreter = Interpreter(str(tmp_path / "model.tflite"), experimental_delegates=[library])
    interpreter.allocate_tensors()
    (image,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(image["index"], pixels[:batch].transpose(0, 2, 3, 1))
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_tensor(result["index"]), expected[:batch], atol=close)
    runtime = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    np.testing.assert_allclose(runtime.run(None, {"image": pixels[:batch]})[0], expected[:batch], atol=close)
    labels = expected.argmax(1)
    for suffix in ("tflite", "onnx"):
        session = open_model(tmp_path / f"model.{suffix}")
        np.testing.assert_allclose(session(images), expected, atol=close)
        session.fill()
        session.invoke()
        if not how.get("int8"):
            assert evaluate(session, pixels, labels, METADATA["class_names"])["accuracy"] == 1
            logits = fsg.load(tmp_path / f"model.{suffix}")(pixels.transpose(0, 2, 3, 1))
            np.testing.assert_allclose(logits, expected, atol=close)


def test_a_c_file_takes_bytes(network, pixels, tmp_path):
    images = normalize(pixels, METADATA["mean"], METADATA["std"])
    how = {"input": "uint8", "verify": "deep", "images": images, "metadata": METADATA}
    export_model(network, SHAPE, tmp_path, ("c",), **how)
    header = (tmp_path / "model.h").read_text()
    assert "int fsg_invoke(const unsigned char *in, float *out);" in header and "fsg_mean" not in header
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    session = open_model(tmp_path / "model.c")
    np.testing.assert_allclose(session(images), expected, atol=1e-4)
    session.fill()
    session.invoke()
    model = CompiledModel(tmp_path / "model.c")
    np.testing.assert_allclose(model(pixels), expected, atol=1e-4)
    plain = tmp_path / "plain"
    export_model(network, SHAPE, plain, ("c",), images=images, metadata=METADATA)
    (tmp_path / "model.h").write_text((plain / "model.h").read_text())
    with pytest.raises(FsgError, match=r"model\.h is of another network"):
        open_model(tmp_path / "model.c")


def test_random_pixels_where_there_are_no_images(network, tmp_path):
    export_model(network, SHAPE, tmp_path, ("packed",), metadata=METADATA)
    report = export_packed(tmp_path / "model.fsg", ("tflite", "onnx"), tmp_path / "files", input="uint8", verify="deep")
    assert all(artefact["verify"]["samples"] == 64 for artefact in report["artefacts"])


def test_what_it_needs(network, tmp_path):
    with pytest.raises(FsgError, match="there are none"):
        export_model(network, SHAPE, tmp_path, ("tflite",), input="uint8")
    with pytest.raises(FsgError, match="no pixels"):
        images = np.random.default_rng(0).standard_normal((4, *SHAPE), np.float32)
        export_model(network, SHAPE, tmp_path, ("tflite",), images=images, metadata=METADATA, input="uint8")
    for formats, how, message in (
        (("packed",), {}, "leave --format packed away"),
        (("tflite",), {"io": "int8", "int8": "layers"}, "grid of its own"),
        (("tflite",), {"writer": "lce"}, "--writer lce away"),
    ):
        with pytest.raises(FsgError, match=message):
            check_settings(formats, input="uint8", **how)
    assert not list(tmp_path.iterdir())
