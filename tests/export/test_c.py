"""The C export: what it computes is what the graph means, in C99 that compilers find no fault with."""

import subprocess
from functools import cache

import numpy as np
import pytest
import zoo
from networks import RESNETS, assert_same, images, random_network
from nodes import many_operators
from sanitized import MEMORY, missing

from fsg.export.formats.c.write import planned, to_c
from fsg.export.formats.tflite.direct import lower
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.runtime.measure.microcontroller import headers
from fsg.runtime.model.c import CompiledModel, compiler, zig

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


@cache
def graph_of(name):
    """The graph of a network, and some images."""
    if name == "many operators":
        return many_operators(), images(5, 4, 6, 5).numpy()
    model, shape = NETWORKS[name]()
    return simplify(trace(model, shape)), images(5, *shape).numpy()


def write(graph, folder, metadata=None):
    path = folder / "model.c"
    source, header = to_c(graph, metadata or {})
    path.write_text(source)
    path.with_suffix(".h").write_text(header)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    """Without a warning, and with the results of the graph."""
    graph, x = graph_of(name)
    path = write(graph, tmp_path)
    subprocess.run([*compiler(), *STRICT, "-O1", "-c", path, "-o", tmp_path / "model.o"], check=True)
    expected = run_graph(graph, x)[graph.nodes[-1].name]
    assert_same(CompiledModel(path)(x).reshape(expected.shape), expected)


@pytest.mark.parametrize("name", ["W1A1", "many operators"])
@pytest.mark.parametrize("machine", COMPILERS)
def test_compilers_find_no_fault(name, machine, tmp_path):
    path = write(graph_of(name)[0], tmp_path, {"mean": [0.5] * 3, "std": [0.2] * 3, "class_names": list('ab?"\\é\n*/')})
    subprocess.run([*COMPILERS[machine], *STRICT, "-O1", "-c", path, "-o", tmp_path / "model.o"], check=True)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("name", ["W1A1", "W1A32", "many operators", "random 0", "random 1", "random 3"])
@pytest.mark.parametrize("words", [(), ("-mpopcnt", "-mavx2", "-mfma")], ids=["plain", "avx2"])
def test_no_byte_beside_what_is_its_own(name, words, tmp_path):
    """Images and results are of the heap; whatever is read or written around them, or undefined, ends the program."""
    graph, x = graph_of(name)
    path, driver = write(graph, tmp_path), tmp_path / "driver.c"
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
