"""The float32 and int8 twins of a trained network."""

import numpy as np
import pytest
import torch
from nodes import convolution, node, of_nodes

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.baseline import GAINS, baseline, padded_within_range, without_bits
from fsg.export.graph import BinaryLayer, Sign
from fsg.export.passes import bits_as_floats, pad_before_pool
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.runtime.model.evaluate import evaluate
from fsg.runtime.model.metadata import read_metadata
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts
from fsg.training.data.load import load_dataset
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear
from fsg.training.run import open_run


@pytest.mark.parametrize("padding_value", [1.0, 0.0, -1.0])
def test_the_network_without_bits_computes_the_same(padding_value):
    torch.manual_seed(0)
    layers = [
        BinaryActivation(),
        BinaryConv2d(3, 8, 3, stride=2, padding=1, padding_value=padding_value),
        torch.nn.BatchNorm2d(8),
        BinaryActivation(),
        BinaryConv2d(8, 8, 3, padding=1, padding_value=padding_value),
        torch.nn.BatchNorm2d(8),
        torch.nn.Flatten(),
        BinaryActivation(),
        BinaryLinear(8 * 6 * 6, 5),
    ]
    model = torch.nn.Sequential(*layers)
    model.train()(torch.randn(64, 3, 12, 12))  # means that no sum of signs hits exactly
    graph = simplify(trace(model, (3, 12, 12)))
    floats = bits_as_floats(graph, GAINS["float32"])
    assert graph.count(BinaryLayer) == 3 and floats.count(BinaryLayer) == floats.count(Sign) == 0
    images = torch.randn(4, 3, 12, 12)
    images[:, :, ::2] = 0.0  # whose sign is +1
    expected, found = (run_graph(g, images.numpy())[g.nodes[-1].name] for g in (graph, floats))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_npz):
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("run")
    train = ["train", "--dataset", f"npz:{digits_npz}", "--epochs", "15", "--out", str(folder / "run")]
    subprocess.run([sys.executable, "-m", "fsg", *train], check=True, capture_output=True)
    return folder / "run"


@pytest.mark.slow
def test_twins_agree_with_pytorch_and_are_made_once(run, digits_npz):
    data = load_dataset(f"npz:{digits_npz}")
    expected = evaluate(open_run(run), data.x_test, data.y_test, data.class_names)["accuracy"]
    for numbers, tolerance in (("float32", 0.001), ("int8", 0.05)):
        path = baseline(run, numbers)
        assert path == run / "export" / f"baseline-{numbers}.tflite"
        assert not [name for name in op_counts(path) if name.startswith("Lce")]
        found = evaluate(open_model(path, delegate=False), data.x_test, data.y_test, data.class_names)["accuracy"]
        assert found == pytest.approx(expected, abs=tolerance)
        metadata = read_metadata(path)
        assert metadata["verify"]["accuracy"] == pytest.approx(found, abs=0.01)
        written, said = path.stat().st_mtime_ns, []
        assert baseline(run, numbers, on_step=said.append) == path
        assert path.stat().st_mtime_ns == written and not said
    assert [path.name for path in sorted(path.parent.iterdir())] == ["baseline-float32.tflite", "baseline-int8.tflite"]
    assert op_counts(run / "export/baseline-int8.tflite")["QUANTIZE"] == 1

    # Another checkpoint is another network.
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "epoch": 2}, run / "checkpoint.pt")
    said = []
    baseline(run, "float32", on_step=said.append)
    assert said == [f"making the float32 twin of {run}"]


def test_a_run_without_weights_is_refused(tmp_path):
    with pytest.raises(FsgError, match=r"checkpoint\.pt: cannot be read .*holds the run's weights"):
        baseline(tmp_path, "float32")


def test_convolutions_stay_as_large_as_they_are(run):
    graph = without_bits(open_run(run), GAINS["float32"])
    kernels = {node.weight.shape[2:] for node in graph.nodes if hasattr(node, "weight") and np.ndim(node.weight) == 4}
    assert kernels == {(3, 3), (1, 1)}


def test_pools_of_int8_are_padded_within_range():
    pool = node(g.MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    graph = of_nodes((4, 6, 6), convolution(g.Conv, 4, 4, 1), pool)
    images = np.random.default_rng(0).standard_normal((5, 4, 6, 6), np.float32)
    changed = padded_within_range(pad_before_pool(graph), images)
    (pad,) = (n for n in changed.nodes if isinstance(n, g.Pad))
    assert pad.value == run_graph(graph, images)["n0"].min()
    found, expected = (run_graph(one, images)[one.nodes[-1].name] for one in (changed, graph))
    np.testing.assert_array_equal(found, expected)
