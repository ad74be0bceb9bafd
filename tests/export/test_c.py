"""The C export: what it computes is what the graph means, in C99 that compilers find no fault with."""

import subprocess
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from networks import RESNETS, assert_same, exact, images, random_network, write_c
from nodes import many_operators
from sanitized import MEMORY, missing
from torch import nn

from fsg import FsgError
from fsg.export import deep
from fsg.export.formats.c.write import planned
from fsg.export.formats.tflite.direct import lower
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.runtime.measure.microcontroller import headers
from fsg.runtime.model.c import CompiledModel, compiler, zig
from fsg.runtime.model.metadata import read_metadata
from fsg.runtime.model.session import open_model
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")
COMPILERS = {
    "this machine's": compiler(),
    "x86-64": [*zig(), "-target", "x86_64-linux-gnu"],
    "aarch64": [*zig(), "-target", "aarch64-linux-gnu"],
    "armv7": [*zig(), "-target", "arm-linux-gnueabihf", "-mcpu=cortex_a7"],
    "Cortex-M4": [*zig(), "-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4", *headers()],
}
NETWORKS = {
    **RESNETS,
    "MLP": lambda: (zoo.trained("MLP"), zoo.ZOO["MLP"][1]),
    **{f"random {seed}": lambda seed=seed: random_network(seed) for seed in (0, 1, 3)},
}
DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
int main(void) {
  float *in = malloc(sizeof(float) * FSG_INPUTS), *out = malloc(sizeof(float) * FSG_OUTPUTS);
  while (fread(in, sizeof(float), FSG_INPUTS, stdin) == FSG_INPUTS) {
    if (fsg_invoke(in, out)) return 1;
    fwrite(out, sizeof(float), FSG_OUTPUTS, stdout);
  }
  free(in), free(out);
  return 0;
}
"""


class Of(nn.Module):
    """A network that a function computes with modules."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def stores_twice(net, x):
    """Two values that one step stores, the first of which it reads again."""
    x = net.first(x)
    y = net.binary(net.sign(x)) + x
    z = F.leaky_relu(y, 0.25)
    joined = z * y
    return torch.cat([net.second(z), net.third(joined)], 1)


def along_five_axes(net, x):
    """Means and maxima of tiles, taken from these, and tiles turned."""
    tiles = net.first(x).reshape(-1, 6, 3, 2, 4, 2)
    less = tiles - tiles.mean((3, 5))[:, :, :, None, :, None] * tiles.amax((3, 5))[:, :, :, None, :, None]
    return net.sign(less.permute(0, 2, 4, 3, 5, 1).reshape(-1, 12, 24) + 0.125).flatten(1) - less.flatten(1)


SIGN = BinaryActivation
TRAPS = {
    "two stores": (
        (3, 6, 7),
        lambda: Of(
            stores_twice,
            **{name: nn.Conv2d(c, 6, 3, padding=p) for name, c, p in (("first", 3, 1), ("second", 6, 0))},
            **{"third": nn.Conv2d(6, 6, 3), "sign": SIGN(), "binary": BinaryConv2d(6, 6, 3, padding=1)},
        ),
    ),
    "zeros around what is negative": (
        (3, 7, 8),
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.ZeroPad2d(1), nn.MaxPool2d(2)),
    ),
    "zeros around what is never negative": (
        (3, 7, 8),
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(5, 2, 2)),
    ),
    "padding twice": (
        (3, 6, 7),
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3),
            *(nn.ZeroPad2d(1), SIGN(), BinaryConv2d(5, 9, 3, padding=1)),
            *(nn.ConstantPad2d((1, 2, 0, 1), -1.0), SIGN(), BinaryConv2d(9, 6, 3, padding=1, padding_value=0)),
        ),
    ),
    "a long row": (
        (1, 1, 33000),
        lambda: nn.Sequential(nn.Conv2d(1, 3, (1, 5)), SIGN(), BinaryConv2d(3, 2, (1, 3)), nn.AdaptiveMaxPool2d(1)),
    ),
    "signs alone": ((3, 4, 5), lambda: nn.Sequential(SIGN(), nn.MaxPool2d(2), nn.Flatten())),
    "a view alone": ((1, 4, 4), lambda: nn.Flatten()),
    "an image of one pixel": (
        (3, 1, 1),
        lambda: Of(
            lambda net, x: net.sign(net.first(F.interpolate(x, size=(3, 4)) * x)) - x,
            first=nn.Conv2d(3, 3, 3, padding=1),
            sign=SIGN(),
        ),
    ),
    "five axes": ((3, 6, 8), lambda: Of(along_five_axes, first=nn.Conv2d(3, 6, 3, padding=1), sign=SIGN())),
    "bits between layers": (
        (3, 8, 8),
        lambda: nn.Sequential(
            *(
                nn.Conv2d(3, 8, 3),
                SIGN(),
                BinaryConv2d(8, 33, 3, padding=1),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(33),
                SIGN(),
            ),
            *(BinaryConv2d(33, 1, 1), nn.BatchNorm2d(1), SIGN(), BinaryConv2d(1, 3, 3), nn.Flatten()),
        ),
    ),
}


@cache
def graph_of(name):
    """The graph of a network, and some images."""
    if name == "many operators":
        return many_operators(), images(5, 4, 6, 5).numpy()
    model, shape = NETWORKS[name]()
    return simplify(trace(model, shape)), images(5, *shape).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    """Without a warning, and with the results of the graph."""
    graph, x = graph_of(name)
    path = write_c(graph, tmp_path)
    subprocess.run([*compiler(), *STRICT, "-O1", "-c", path, "-o", tmp_path / "model.o"], check=True)
    expected = run_graph(graph, x)[graph.nodes[-1].name]
    assert_same(CompiledModel(path)(x).reshape(expected.shape), expected)


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name, tmp_path):
    """The results of the graph, and every value within, where C does other than the operators one by one."""
    shape, build = TRAPS[name]
    graph, x = simplify(trace(exact(build()), shape)), images(5, *shape).numpy()
    path = write_c(graph, tmp_path)
    subprocess.run([*compiler(), *STRICT, "-c", path, "-o", tmp_path / "model.o"], check=True)
    expected = run_graph(graph, x)[graph.nodes[-1].name]
    assert_same(CompiledModel(path, flags=("-std=c99", "-O1"))(x).reshape(expected.shape), expected)
    assert deep.check_file("c", "c", graph, b"", x) > 0


@pytest.mark.parametrize("name", ["a view alone", "zeros around what is negative"])
def test_nothing_is_unused_where_little_is_computed(name, tmp_path):
    shape, build = TRAPS[name]
    path = write_c(simplify(trace(exact(build()), shape)), tmp_path)
    subprocess.run([*COMPILERS["x86-64"], *STRICT, "-O1", "-c", path, "-o", tmp_path / "model.o"], check=True)


@pytest.mark.parametrize("name", ["W1A1", "many operators"])
@pytest.mark.parametrize("machine", COMPILERS)
def test_compilers_find_no_fault(name, machine, tmp_path):
    path = write_c(
        graph_of(name)[0], tmp_path, {"mean": [0.5] * 3, "std": [0.2] * 3, "class_names": list('ab?"\\é\n*/')}
    )
    subprocess.run([*COMPILERS[machine], *STRICT, "-O1", "-c", path, "-o", tmp_path / "model.o"], check=True)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("name", ["W1A1", "W1A32", "many operators", "random 0", "random 1", "random 3"])
@pytest.mark.parametrize("words", [(), ("-mpopcnt", "-mavx2", "-mfma")], ids=["plain", "avx2"])
def test_no_byte_beside_what_is_its_own(name, words, tmp_path):
    """Images and results are of the heap; whatever is read or written around them, or undefined, ends the program."""
    graph, x = graph_of(name)
    path, driver = write_c(graph, tmp_path), tmp_path / "driver.c"
    driver.write_text(DRIVER)
    sanitizers = (*MEMORY, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
    program = tmp_path / "program"
    subprocess.run(["clang-19", "-std=c99", "-O1", *words, *sanitizers, driver, path, "-lm", "-o", program], check=True)
    done = subprocess.run([program], input=x.transpose(0, 2, 3, 1).tobytes(), capture_output=True, check=True)
    expected = run_graph(graph, x)[graph.nodes[-1].name]
    expected = expected.transpose(0, 2, 3, 1) if expected.ndim == 4 else expected
    found = np.frombuffer(done.stdout, np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", [*NETWORKS, "many operators"])
def test_the_arena_is_hardly_larger_than_what_lives_at_once(name):
    graph, _ = graph_of(name)
    *_, placed = planned(lower(graph))
    assert placed.size <= 1.1 * placed.needed or placed.size == 8


def test_what_is_wrong_is_one_line(tmp_path, refused, monkeypatch):
    folder, other = tmp_path / "model", tmp_path / "other"
    for each, name in ((folder, "two stores"), (other, "padding twice")):
        each.mkdir()
        shape, build = TRAPS[name]
        path = write_c(simplify(trace(exact(build()), shape)), each, {"input_shape": [1, *shape]})
    path = folder / "model.c"
    source, header = path.read_bytes(), path.with_suffix(".h").read_bytes()
    for changed in (b"{", b'{"input_shape": [1, 3', b"[]", b""):
        path.write_bytes(source.replace(b'{"input_shape": [1, 3, 6, 7]}', changed))
        with pytest.raises(FsgError, match=r"model.c: its metadata, in the second line, are damaged; export or copy"):
            read_metadata(path)
    path.write_bytes(source)
    path.with_suffix(".h").write_bytes((other / "model.h").read_bytes())
    assert "model.h is of another network" in refused("bench", path, "--device", "cortex-m4")
    path.with_suffix(".h").write_bytes(header)
    path.write_bytes(source + b"\x97\xff;")
    with pytest.raises(FsgError, match=r"model.c: does not compile: "):
        open_model(path)
    path.write_bytes(source)
    monkeypatch.setenv("CC", "/nowhere/cc -O1")
    line = refused("bench", path)
    assert "$CC names the compiler /nowhere/cc, which is not there: correct or unset it" in line
    monkeypatch.setenv("CC", "ls -O1")
    assert compiler()[1:] == ["-O1"]
