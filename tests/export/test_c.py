"""The C export: what it computes is what the graph means, in C99 that compilers find no fault with."""

import subprocess

import pytest
import torch
import zoo
from networks import assert_same, exact, images, random_network

from fsg.export.formats.c.write import to_c
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.runtime.model.c import CompiledModel, compiler
from fsg.training.networks.network import named_model

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")


def write(graph, folder, metadata=None):
    path = folder / "model.c"
    source, header = to_c(graph, metadata or {})
    path.write_text(source)
    path.with_suffix(".h").write_text(header)
    return path


def resnet20(**how):
    torch.manual_seed(0)
    how = {"activation_bits": 1, "first_last": "float", **how}
    return exact(named_model("resnet20", shape=(3, 32, 32), classes=10, **how)), (3, 32, 32)


NETWORKS = {
    "W1A1": resnet20,
    "W1A32": lambda: resnet20(activation_bits=32),
    "all binary": lambda: resnet20(first_last="binary"),
    "MLP": lambda: (zoo.trained("MLP"), zoo.ZOO["MLP"][1]),
    **{f"random {seed}": lambda seed=seed: random_network(seed) for seed in (0, 1, 3)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    """Without a warning, and with the results of the graph."""
    model, shape = NETWORKS[name]()
    graph = simplify(trace(model, shape))
    x = images(5, *shape).numpy()
    path = write(graph, tmp_path)
    subprocess.run([*compiler(), *STRICT, "-O1", "-c", path, "-o", tmp_path / "model.o"], check=True)
    expected = run_graph(graph, x)[graph.nodes[-1].name]
    assert_same(CompiledModel(path)(x).reshape(expected.shape), expected)
