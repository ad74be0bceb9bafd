"""The packed-sign file: what is written is what is read, and what is computed of it is what the graph means."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from networks import RESNETS, assert_same, random_network
from nodes import check_file, convolution, floats, many_operators, node, of_nodes

from fsg import FsgError
from fsg.export import graph as g
from fsg.export.formats.packed import to_packed
from fsg.export.passes import sign_last
from fsg.export.pipeline import export_model
from fsg.export.recognise import simplify
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.runtime.measure.local import benchmark
from fsg.runtime.model.files import model_files
from fsg.runtime.model.meaning import ARITHMETIC, ELEMENTWISE, convolve, padded
from fsg.runtime.model.metadata import read_metadata
from fsg.runtime.model.packed import bits, rules
from fsg.runtime.model.packed.bits import Bits
from fsg.runtime.model.packed.interpret import Interpreter
from fsg.runtime.model.packed.read import parse_packed
from fsg.runtime.model.session import open_model

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "tiny.fsg"
MUTATIONS = int(os.environ.get("FSG_MUTATIONS", "1500"))


NETWORKS = {
    **RESNETS,
    "MLP": lambda: (zoo.trained("MLP"), zoo.ZOO["MLP"][1]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    """Integers are exact, and results those of PyTorch."""
    model, shape = NETWORKS[name]()
    images = np.random.default_rng(0).integers(-16, 17, (5, *shape)).astype(np.float32) / 8
    graph = sign_last(simplify(trace(model, shape)))
    interpreter = Interpreter(parse_packed(name, to_packed(graph, {})))
    values, found = run_graph(graph, images), interpreter.values(images)
    on_bits = 0
    for node_ in graph.nodes:
        scale = max(1.0, np.abs(values[node_.name]).max())
        np.testing.assert_allclose(found[node_.name] / scale, values[node_.name] / scale, atol=1e-5, err_msg=node_.name)
        if isinstance(node_, g.BinaryLayer) and graph.takes_bits(node_):
            signs = values[node_.inputs[0]]
            plain = sums(node_, signs)
            axis = 1 if isinstance(node_, g.BinaryConv) else -1
            packed = next(other for other in interpreter.nodes if other.name == node_.name)
            np.testing.assert_array_equal(interpreter.sums(packed, Bits(signs < 0, axis)), plain)
            on_bits += 1
    assert on_bits == {"W1A1": 18, "W1A32": 0, "all binary": 20}.get(name, graph.count(g.BinaryLayer))
    report = export_model(model, shape, tmp_path, ["packed"], images=images, metadata={"mean": [0.5]}, verify="deep")
    (artefact,) = report["artefacts"]
    assert artefact["format"] == artefact["writer"] == "packed" and artefact["path"] == str(tmp_path / "model.fsg")
    assert artefact["verify"]["values_compared"] == len(graph.nodes) - 1
    assert artefact["ops"].get("BinaryConv", 0) == graph.count(g.BinaryConv)
    session = open_model(tmp_path / "model.fsg")
    assert session.format == "packed" and session.metadata["mean"] == [0.5]
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    assert_same(session(images) / np.abs(expected).max(), expected / np.abs(expected).max())


def sums(node, signs):
    """What a binary layer adds up, in float32, which has integers of this size."""
    if isinstance(node, g.BinaryDense):
        return signs @ node.signs().T
    return convolve(padded(signs, g.sides(node), node.padding_value), node.signs(), node)


@pytest.mark.parametrize("counting", [bits.count, bits.count_by_table])
@pytest.mark.parametrize("channels", [(1, 3, 1), (33, 5, 1), (64, 64, 2), (130, 4, 1), (6, 6, 6), (4, 12, 4)], ids=str)
@pytest.mark.parametrize("value", [1.0, 0.0, -1.0])
def test_sums_are_exact(channels, value, counting, monkeypatch):
    monkeypatch.setattr(bits, "count", counting)
    inputs, outputs, groups = channels
    for window in [(1, 1, 0, 1), (3, 1, 1, 1), ((3, 2), (2, 3), (2, 1), (1, 2)), (5, 2, 4, 2)]:
        conv = convolution(g.BinaryConv, inputs, outputs, *window, groups, padding_value=value)
        graph = of_nodes((inputs, 9, 8), node(g.Sign), conv)
        interpreter = Interpreter(parse_packed("it", to_packed(graph, {})))
        signs = np.where(np.random.default_rng(1).random((3, inputs, 9, 8)) < 0.5, np.float32(-1), np.float32(1))
        found = interpreter.sums(interpreter.nodes[-1], Bits(signs < 0, 1))
        np.testing.assert_array_equal(found, sums(graph.nodes[-1], signs))
        assert found.dtype == np.int32


def test_a_border_that_is_no_sign_and_two_layers_that_pack_another_axis():
    conv = convolution(g.BinaryConv, 3, 2, 3, 1, 1, padding_value=0.5)
    dense = node(g.BinaryDense, inputs=("n0",), negative=np.eye(8) > 0, scale=floats(8), bias=floats(8))
    other = convolution(g.BinaryConv, 3, 2, 3, 1, 1, inputs=("n0",))
    joined = node(g.Concat, inputs=("n1", "n2"), axis=1)
    for nodes in ((conv,), (conv, dense, joined), (dense, other, joined)):
        graph = of_nodes((3, 9, 8), node(g.Sign), *nodes)
        images = np.random.default_rng(0).standard_normal((2, 3, 9, 8), np.float32)
        found = Interpreter(parse_packed("it", to_packed(graph, {}))).values(images)
        for name, expected in run_graph(graph, images).items():
            assert_same(found[name], expected, name)


def test_the_document_has_every_operator():
    """With the names of its attributes and tensors, and every function of single values."""
    text = (ROOT / "docs" / "packed.md").read_text()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if "|" in line]
    operators = {row[0].strip("`"): row for row in rows if len(row) == 5}
    assert operators.keys() - {"op", "---"} == {"Input", *rules.RULES}
    for name, rule in rules.RULES.items():
        _, inputs, attributes, tensors, _ = operators[name]
        assert inputs == {None: "1 or more"}.get(rule.inputs, str(rule.inputs))
        shared = {"stride", "padding", "dilation", "groups"} if "a convolution's" in attributes else set()
        shared |= {"kernel", "stride", "padding"} if "as `MaxPool`" in attributes else set()
        words = set(re.findall(r"`(\w+)`", attributes)) - {"MaxPool", "nearest", "bilinear", "mean", "sum", *ARITHMETIC}
        assert words | shared == set(rule.attributes), name
        assert set(re.findall(r"`(\w+)`", tensors)) == set(rule.tensors), name
    functions = {word for row in rows if len(row) == 3 for word in re.findall(r"`(\w+)`", row[0])}
    assert set(ELEMENTWISE) <= functions


def test_bits_of_words():
    negative = np.zeros((2, 70), bool)
    negative[0, [0, 65]] = negative[1, 63] = True
    words = bits.pack(negative)
    assert words.tolist() == [[1, 2], [1 << 63, 0]]
    assert (bits.unpack(words, 70) == negative).all()
    every = np.arange(1 << 16, dtype=np.uint64) * np.uint64(0x0001000100010001)
    assert (bits.count_by_table(every) == [4 * bin(n).count("1") for n in range(1 << 16)]).all()


def tiny():
    """A graph whose numbers are all said here."""
    negative = np.arange(2 * 5 * 2 * 4).reshape(2, 5, 2, 4) % 3 == 0
    one, two = np.ones(2, np.float32), np.array([0.5, -2], np.float32)
    conv = node(
        g.BinaryConv,
        name="conv",
        negative=negative,
        scale=two,
        bias=one,
        stride=(1, 2),
        padding=(1, 0),
        dilation=(1, 1),
        groups=1,
        padding_value=1.0,
    )
    clip = node(g.Elementwise, name="clip", operator="Hardtanh", settings={"min_val": 0.0, "max_val": np.inf})
    mean = node(g.Reduce, 1, 2, name="mean", operator="mean", axes=(2, 3))
    last = node(g.Dense, name="last", weight=np.eye(3, 2, dtype=np.float32), bias=np.arange(3, dtype=np.float32))
    return of_nodes((5, 4, 6), node(g.Sign, name="sign"), conv, clip, mean, last)


METADATA = {"input_shape": [1, 5, 4, 6], "class_names": ["a", "ä", "c"], "mean": [0.5], "std": [0.25]}


def test_the_golden_file():
    """Bytes are pinned: a change of them is a change of the format, which then needs another version."""
    content = to_packed(tiny(), METADATA)
    assert content == GOLDEN.read_bytes()
    file = parse_packed(GOLDEN, content)
    assert file.metadata == METADATA == read_metadata(GOLDEN)
    conv = file.nodes[2]
    assert (conv.op, conv.inputs, conv.kernel, conv.groups) == ("BinaryConv", ("sign",), (2, 4), 1)
    assert conv.negative.shape == (2, 2)
    for output, row, column, channel in np.ndindex(2, 2, 4, 5):
        bit = (row * 4 + column) * 5 + channel
        word = int(conv.negative[output, bit // 32])
        assert word >> bit % 32 & 1 == tiny()["conv"].negative[output, channel, row, column]
    assert file.nodes[3].settings == {"min_val": 0.0, "max_val": np.inf}


def mutated(content, rng):
    """The content with some damage: of bytes, or of what a well-formed header says."""
    kind = rng.integers(4)
    data = bytearray(content)
    if kind == 0:
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        return bytes(data)
    if kind == 1:
        start, stop = sorted(rng.integers(0, len(data), 2))
        return bytes(data[:start] + (data[stop:] if rng.random() < 0.5 else bytes(data[start:stop]) * 2))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = header["__metadata__"]
    inner = json.loads(about["graph"])
    for _ in range(rng.integers(1, 3)):
        mutate(inner if kind == 2 else header, rng)
    if kind == 2:
        about["graph"] = json.dumps(inner)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


WORDS = ("Pad", "MaxPool", "TransposedConv", "Reshape", "Softmax", "sign", "inf", "F32", "[" * 5000, "9" * 5000)


def mutate(value, rng):
    """Changes something in lists and objects of JSON."""
    while True:
        places = list(range(len(value))) if isinstance(value, list) else list(value)
        if not places:
            return
        place = places[rng.integers(len(places))]
        if isinstance(value[place], (list, dict)) and rng.random() < 0.85:
            value = value[place]
            continue
        whole = [-1, 0, 1, 2, 3, 7, 64, 4096, 10**5, 2**31 - 1, 2**31, 2**64, 10**30]
        others = [*whole, 0.5, -1e300, None, True, [], {}, [1, 2], [1] * 4, *WORDS, [-3], {"alpha": 1}]
        choice = rng.integers(6)
        if choice == 0 and isinstance(value, dict):
            del value[place]
        elif choice == 1 and isinstance(value, dict):
            value[str(others[rng.integers(len(others))])[:20]] = value[place]
        elif choice == 2 and isinstance(value, list):
            value.insert(place, value[place])
        else:
            value[place] = others[rng.integers(len(others))]
        return


def survives(count, path, monkeypatch):
    """Files with damage are refused in one line or computed, and take no more memory than they say."""
    monkeypatch.setattr(rules, "MAX_NUMBERS", 1 << 16)
    contents = [GOLDEN.read_bytes(), to_packed(many_operators(), {})]
    rng = np.random.default_rng(count)
    refused = 0
    for i in range(count):
        content = mutated(contents[i % 2], rng)
        path.write_bytes(content)
        traced = i % 10 < 2  # which is slow
        if traced:
            tracemalloc.start()
        try:
            session = open_model(path)
            assert tracemalloc.get_traced_memory()[1] < 100 * len(content) + 2**20
            session(np.ones((2, *session.input_shape), np.float32))
        except FsgError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 500
            refused += 1
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert most < 2**26
    assert count / 2 < refused < count


def test_damaged_files(tmp_path, monkeypatch):
    survives(MUTATIONS, tmp_path / "model.fsg", monkeypatch)


@pytest.mark.slow
def test_more_damaged_files(tmp_path, monkeypatch):
    survives(10_000, tmp_path / "model.fsg", monkeypatch)


def test_every_operator_is_read_as_it_was_written():
    graph = many_operators()
    images = np.random.default_rng(0).standard_normal((3, 4, 6, 5), np.float32)
    found = Interpreter(parse_packed("it", to_packed(graph, {}))).values(images)
    for name, expected in run_graph(graph, images).items():
        assert_same(found[name], expected, name)


@pytest.mark.parametrize("seed", range(8))
def test_a_file_is_read_back_as_the_graph_it_was_written_of(seed):
    """So is every graph of the tests of .tflite files; see `check`."""
    rng = np.random.default_rng(seed)
    model, shape = random_network(seed, one_bit=seed % 2 == 0)
    check_file(simplify(trace(model, shape)), rng.standard_normal((3, *shape), np.float32))
    check_file(many_operators(), rng.standard_normal((3, 4, 6, 5), np.float32))


def test_numbers_that_are_whole_are_read_back_as_the_same_bytes():
    unit = node(g.Elementwise, operator="Hardtanh", settings={"min_val": -1, "max_val": np.inf})
    pad = node(g.Pad, padding=(1, 0, 0, 1), value=2)
    assert b'\\"min_val\\":-1.0' in check_file(of_nodes((2, 3, 3), unit, pad), np.ones((2, 2, 3, 3), np.float32))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content[:-1], "is not where it says"),
        (lambda content: content + b"0", "there is more behind its tensors"),
        (lambda content: content[:100], "it ends within its header"),
        (lambda content: b"", "it has no header"),
        (
            lambda content: content.replace(b'"version":"1"', b'"version":"4"'),
            "of version 4 of the format, and this fsg reads 1, 2, 3: update fsg",
        ),
        (lambda content: content.replace(b"fsg-packed", b"fsg-pocked"), "says nothing of fsg's packed signs"),
        (lambda content: content.replace(b"Sign", b"Sigh"), "node sign: 'Sigh' is missing or unknown"),
        (lambda content: content.replace(b"[1,5,4,6]},", b"[1,5,4,7]},", 1), "node sign: its shape is"),
    ],
)
def test_what_is_wrong_is_told(change, told, tmp_path):
    content = GOLDEN.read_bytes()
    path = tmp_path / "model.fsg"
    path.write_bytes(change(content))
    with pytest.raises(FsgError, match=told) as caught:
        open_model(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "across",
    [
        node(g.Reduce, 1, 3, 9, 8, operator="max", axes=(0,)),
        node(g.Softmax, 1, 3, 9, 8, axis=0, log=False),
        node(g.Concat, 1, 3, 9, 8, axis=0),
        node(g.Take, 1, 3, 9, 8, axis=0, index=(0,)),
        node(g.Transpose, 3, 1, 9, 8, permutation=(1, 0, 2, 3)),
    ],
    ids=lambda node: type(node).__name__,
)
def test_what_mixes_or_moves_images_is_refused(across):
    image = g.Input(name="image", shape=(1, 3, 9, 8))
    content = to_packed(g.BinaryGraph((image, replace(across, name="it", inputs=("image",)))), {})
    with pytest.raises(FsgError, match=r"node it: it (mixes|moves) the"):
        parse_packed("model.fsg", content)


def test_commands(earlier_run, fsg, refused):
    data = f"npz:{earlier_run.parent / 'digits.npz'}"
    code, out, err = fsg("export", earlier_run, "--format", "packed")
    assert code == 0 and "model.fsg" in out, err
    path = earlier_run / "export" / "model.fsg"
    results = [json.loads(fsg("eval", file, "--dataset", data, "--json")[1]) for file in (path, earlier_run)]
    assert results[0] == results[1]
    code, out, err = fsg("bench", path, "--runs", "2", "--json", "-")
    (record,) = json.loads(out)
    assert code == 0 and record["format"] == "packed" and record["accuracy"] == results[0]["accuracy"], err
    code, out, err = fsg("bench", earlier_run, "--runs", "1")
    assert code == 0 and ".fsg: computed by NumPy" in out, err
    code, found, err = fsg("summary", path)
    assert code == 0, err
    _, expected, _ = fsg("summary", earlier_run)
    binary_macs = [text.splitlines()[-1].split()[-2] for text in (found, expected)]
    assert binary_macs[0] == binary_macs[1] != "0.0"
    assert "NumPy computes .fsg files on one thread" in refused("bench", path, "--threads", "2", "--runs", "1")
    assert "rpi4 runs .tflite files" in refused("bench", path, "--device", "rpi4")
    path.write_bytes(path.read_bytes()[:-4])
    for command in (["eval", path, "--dataset", data], ["summary", path], ["bench", path]):
        assert "truncated or damaged" in refused(*command)


def test_the_reader_needs_neither_torch_nor_onnx():
    program = """
import sys
for name in ("torch", "onnx", "onnxruntime", "ai_edge_litert", "tensorflow"):
    sys.modules[name] = None
import numpy as np
from fsg.runtime.model.session import open_model
from fsg.runtime.model.packed.summary import file_table
session = open_model(sys.argv[1])
assert session(np.ones((3, 5, 4, 6), np.float32)).shape == (3, 3)
file_table(session.path)
"""
    result = subprocess.run([sys.executable, "-c", program, GOLDEN], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("wide", "changes"),
    [
        (convolution(g.Conv, 3, 2, 3, 1, 1), {"padding": (10**8, 10**8), "dilation": (10**8, 10**8)}),
        (convolution(g.BinaryConv, 3, 2, 3, 1, 1), {"padding": (10**8, 10**8), "dilation": (10**8, 10**8)}),
        (convolution(g.TransposedConv, 3, 2, 3, 1, 1), {"padding": (10**8, 10**8), "dilation": (10**8, 10**8)}),
        (node(g.MaxPool, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1)), {"padding": (10**8, 0, 0, 0)}),
    ],
)
def test_what_is_large_between_is_refused(wide, changes):
    """Padded, it would take more memory than its input and its result together."""
    graph = of_nodes((3, 9, 8), wide)
    large = replace(graph.nodes[1], **changes)
    with pytest.raises(FsgError, match="is more than 134217728 numbers"):
        parse_packed("it", to_packed(g.BinaryGraph((graph.nodes[0], large)), {}))


def test_measured_on_one_thread_of_this_machine(tmp_path):
    path = tmp_path / "model.fsg"
    path.write_bytes(GOLDEN.read_bytes())
    record = benchmark(path, runs=2, warmup=0)
    assert (record["format"], record["kernels"], record["batch"]) == ("packed", "numpy", 1)
    with pytest.raises(FsgError, match="on one thread"):
        open_model(path, num_threads=2)
    (tmp_path / "report.json").write_text("{}")
    assert model_files([tmp_path]) == (path,)
