"""Published networks, trained for a few steps, in every format and by every writer."""

import numpy as np
import pytest
import torch
import zoo
from networks import write_c

from fsg import FsgError
from fsg.export import deep
from fsg.export import graph as g
from fsg.export.formats.c.write import planned
from fsg.export.formats.onnx import to_onnx
from fsg.export.formats.packed import to_packed
from fsg.export.formats.tflite.direct import lower
from fsg.export.formats.tflite.write import to_tflite
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.export.verify import require_agreement, signs_near_zero
from fsg.runtime.model.files import FORMATS
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts

SMALL = ("ResNet-20", "MLP", "VGG-small")
SAID_BY_LCE = ("ResNet-20", "Bi-Real ResNet-18", "BinaryDenseNet", "VGG-small")
NAMES = [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in zoo.ZOO]


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    """A network's name, graph and images, what PyTorch computes for them, and who says which image is near a flip."""
    name = request.param
    model, shape = zoo.trained(name), zoo.ZOO[name][1]
    images = torch.randn(256 if name in SMALL else 16, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = torch.cat([model(part) for part in images.split(16)]).numpy()
    graph = simplify(trace(model, shape))
    return name, graph, images.numpy(), expected


def agrees(path, network, by):
    name, graph, images, expected = network
    scores = open_model(path)(images)

    def near(chosen):
        return signs_near_zero(graph, images[chosen])

    def inside():
        return deep.check_file(FORMATS[path.suffix], by, graph, path.read_bytes(), images[:4])

    found = require_agreement(name, scores, expected, expected.argmax(1), near, inside)
    if "flipped" in found:
        return
    spread = expected.max() - expected.min()
    assert np.median(np.abs(scores - expected)) <= 1e-4 * spread


def test_onnx(network, tmp_path):
    (tmp_path / "model.onnx").write_bytes(to_onnx(network[1], {}))
    agrees(tmp_path / "model.onnx", network, "onnx")


def test_c(network, tmp_path):
    if network[0] not in (*SMALL, "Bi-Real ResNet-18", "QuickNet", "MeliusNet"):
        pytest.skip("their kinds of layers are in the others, and compiling them takes long")
    name, graph, images, expected = network
    count = len(images) if name in SMALL else 4
    agrees(write_c(graph, tmp_path), (name, graph, images[:count], expected[:count]), "c")
    *_, placed = planned(lower(network[1]))
    assert placed.size <= 1.1 * placed.needed


def test_packed(network, tmp_path):
    (tmp_path / "model.fsg").write_bytes(to_packed(network[1], {}))
    agrees(tmp_path / "model.fsg", network, "packed")


def test_tflite_written_directly(network, tmp_path):
    name, graph, *_ = network
    content, by = to_tflite(graph, writer="direct")
    assert by == "direct"
    count = zoo.ZOO[name][2]
    assert op_counts(content)["LceBconv2d"] == graph.count(g.BinaryLayer) == count
    (tmp_path / "model.tflite").write_bytes(content)
    agrees(tmp_path / "model.tflite", network, by)


@pytest.mark.slow
def test_tflite_by_lce_where_it_can(network, tmp_path):
    name, graph, *_ = network
    if name not in SAID_BY_LCE:
        with pytest.raises(FsgError, match="--writer direct knows more"):
            to_tflite(graph, writer="lce")
        return
    content, by = to_tflite(graph)
    assert by == "lce" and op_counts(content)["LceBconv2d"] == zoo.ZOO[name][2]
    (tmp_path / "model.tflite").write_bytes(content)
    agrees(tmp_path / "model.tflite", network, by)
    assert len(to_tflite(graph, writer="direct")[0]) <= len(content)
