"""The page of `fsg report`: complete, self-contained, and well-formed."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import records

from fsg import FsgError
from fsg.runtime.measure.bench import finished
from fsg.runtime.measure.estimate import PublishedBoard, estimate
from fsg.runtime.measure.records import Model
from fsg.runtime.model.classes import CONFUSION, write_confusion
from fsg.runtime.model.exported import times_smaller
from fsg.runtime.report import charts
from fsg.runtime.report.page import page, read_facts, write_page
from fsg.runtime.report.view import size

VOID = {"meta", "line", "circle", "polyline", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The texts of a page, its tags, and whether every one is closed."""

    def __init__(self, content):
        super().__init__()
        self.texts, self.tags, self.links, self.open = [], set(), [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data.strip())


def numbers(content):
    """Every number in a JSON value, written as JSON writes it."""
    if isinstance(content, dict):
        return [n for value in content.values() for n in numbers(value)]
    if isinstance(content, list):
        return [n for value in content for n in numbers(value)]
    return [json.dumps(content)] if isinstance(content, (int, float)) and not isinstance(content, bool) else []


@pytest.fixture
def run(tmp_path):
    """A run with an export and records of all kinds, its numbers all different and odd."""
    run = tmp_path / "net"
    export = run / "export"
    export.mkdir(parents=True)
    path = records.model_file(export / "model.tflite")
    twin = records.model_file(export / "baseline-int8.tflite")
    pi4 = PublishedBoard()
    found = [
        records.measured(path, ops=True),
        records.measured(twin, factor=2.6125),
        records.measured(path, host=None, device="local", threads=2, factor=0.125),
        {**records.emulated(path, profile=True), "device": "rpi5"},
        estimate(path, replace(pi4, name="rpi5", clock_ghz=2.4), threads=3, instructions=3_456_789),
    ]
    found = finished(found, [Model(path), Model(twin, "int8", path)], pi4)
    summary = {"model": "resnet20", "dataset": "digits", "method": "fsg", "seed": 5, "activation_bits": 1}
    summary |= {"test_accuracy": 0.98125, "train_loss": 0.0123, "seconds": 77.25, "stopped": ""}
    verify = {"samples": 360, "top1_agreement": 0.9975, "median_abs_diff": 2.5e-07, "max_abs_diff": 0.625}
    verify |= {"accuracy": 0.9825, "torch_accuracy": 0.985, "class_median_abs_diff": 3.5e-07, "limit": 2.25e-4}
    verify |= {"differing": 1, "differing_near_zero": 1, "differing_ties": 0}
    artefact = {"format": "tflite", "path": "export/model.tflite", "size_bytes": 12345, "ops": {"ADD": 17}}
    report = {"model": "resnet20", "dataset": "digits", "layers": {"bitwise": 18, "float": 4}}
    report |= {"hypernetwork_parameters_discarded": 290, "float_size_bytes": 1096168}
    report |= {"artefacts": [{**artefact, "verify": verify}], "not_on_bits": {"block.conv": "a sum"}}
    for name, content in (("summary.json", summary), ("export/report.json", report), ("export/bench.json", found)):
        (run / name).write_text(json.dumps(content))
    rows = ["epoch,train_loss,train_accuracy,test_loss,test_accuracy"]
    rows += ["1,1.5,0.25,1.25,0.5", "2,0.75,0.625,nan,0.875", "3,0.5,0.75,0.625,0.9375"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    return run


def test_every_number_of_the_json_is_on_the_page(run):
    shown = set(Page(page(read_facts(run))).texts)
    for name in ("summary.json", "export/report.json", "export/bench.json"):
        wanted = numbers(json.loads((run / name).read_text()))
        assert len(wanted) > 3 and not [number for number in wanted if number not in shown], name


def test_classes_are_on_the_page(run):
    assert "Classes" not in Page(page(read_facts(run))).texts
    matrix = np.array([[311, 17, 0], [0, 322, 1], [29, 0, 333]])
    write_confusion(run / CONFUSION, matrix, ["<ant>", "bee", "cat"])
    texts = Page(page(read_facts(run))).texts
    assert {"Classes", "<ant>", "311", "17", "322", "333", "94.8%", "cat (1)", "<ant> (29)"} <= set(texts)
    write_confusion(run / CONFUSION, np.diag(np.arange(100, 150)), [f"class {i}" for i in range(50)])
    texts = Page(page(read_facts(run))).texts
    assert "class 0" in texts and "class 49" not in texts  # the worst 40, and no matrix


def test_what_the_export_says_is_on_the_page_in_words(run):
    texts = Page(page(read_facts(run))).texts
    assert "model.tflite: 1 of 360 decisions differs, from signs within rounding of zero" in texts
    assert "not on bits, for the input is a sum and no sign: block.conv" in texts
    assert {"3.5e-07", "2.2e-04"} <= set(texts)


@pytest.mark.parametrize(
    ("bits", "float_size", "text"),
    [
        (
            32,
            228_000,
            "larger than the 228.0 kB of float32: for 32-bit activations a .tflite stores one-bit weights as float32",
        ),
        (
            32,
            290_000,
            "hardly smaller than the 290.0 kB of float32: for 32-bit activations a .tflite stores one-bit weights",
        ),
        (1, 228_000, "larger than the 228.0 kB of float32"),
        (1, 2_880_000, "10.0x smaller than float32"),
    ],
)
def test_a_file_that_saves_nothing_says_so_where_its_size_stands(run, bits, float_size, text):
    path = run / "export/report.json"
    report = json.loads(path.read_text()) | {"activation_bits": bits, "float_size_bytes": float_size}
    report["artefacts"][0]["size_bytes"] = 288_000
    path.write_text(json.dumps(report))
    texts = Page(page(read_facts(run))).texts
    assert any(shown.startswith(f"model.tflite, {text}") for shown in texts)
    assert any(shown.startswith(f"288.0 kB (288000 B), {text}") for shown in texts)


def test_the_page_needs_nothing_but_itself(run):
    content = page(read_facts(run))
    parsed = Page(content)
    assert not parsed.links and not parsed.tags & {"script", "link", "img", "iframe", "object"}
    assert "http" not in content and "url(" not in content and "@import" not in content
    assert "prefers-color-scheme: dark" in content and "@media print" in content
    assert 'name="viewport"' in content and 'charset="utf-8"' in content


def test_the_kinds_are_told_apart(run):
    texts = Page(page(read_facts(run))).texts
    estimated = [text for text in texts if text.startswith("~") and text != "~200,000"]  # shared instructions
    assert "~200,000" in texts and "time, estimated" in texts
    assert estimated and all(text.endswith(" ms") or text.endswith(" ms estimated") for text in estimated)
    (emulation,) = [text for text in texts if "emulated cortex-a72:" in text]
    assert "bit-exact: the fast kernels give the bits of the plain loops" in emulation and "no time" in emulation
    assert "3.919 ms, 2.61x" in texts and "pi@desk (Cortex-A72)" in texts


def test_all_bars_of_latency_have_one_scale_and_one_place(run):
    path = run / "export/bench.json"
    found = json.loads(path.read_text())
    found[0]["batch"] = 8
    path.write_text(json.dumps(found))
    content = page(read_facts(run))
    drawn = re.findall(r'style="left:([\d.]+)%;width:([\d.]+)%"', content.partition("Side by side")[0])
    ends = [float(left) + float(width) for left, width in drawn]
    timed = [record["latency_ms"] for record in found if "latency_ms" in record]
    wanted = [[t["low"] if "low" in t else t["p50"], t["high"] if "high" in t else t["p90"]] for t in timed]
    longest = max(end for _, end in wanted)
    assert len(timed) == 4 and max(ends) == pytest.approx(100, abs=0.02)
    for start, end in wanted:
        assert any(abs(100 * end / longest - shown) < 0.02 for shown in ends)
        assert any(abs(100 * start / longest - float(left)) < 0.01 for left, _ in drawn)
    columns = re.search(r"\.bars \{[^}]*grid-template-columns: ([^;]*);", content)[1]
    assert re.fullmatch(r"\d+% 1fr \d+%", columns)  # no text's width decides where a bar begins or ends
    assert "1 thread, batch 8" in Page(content).texts
    assert any(text.startswith("median on") and text.endswith("1 thread, batch 8") for text in Page(content).texts)


def test_a_table_that_goes_on_at_an_edge_is_shaded_there(run):
    content = page(read_facts(run))
    body = content.partition("<body>")[2].partition("<h2>Every figure")[0]
    assert body.count("<table>") == body.count('<div class="scroll"><table>') > 2
    (rule,) = re.findall(r"\n\.scroll \{[^}]*\}", content)
    assert "overflow-x: auto" in rule and rule.count("local") == rule.count("scroll,") + rule.count("scroll;") == 2
    assert content.count("--shade:") == 2  # in the light and in the dark


def test_long_names_stay_on_the_page(run):
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "npz:/home/me/sets/images.npz"}))
    content = page(read_facts(run))
    assert "<h1>resnet20 on images.npz</h1>" in content and "npz:/home/me/sets/images.npz" in Page(content).texts
    assert re.search(r"\nbody \{[^}]*overflow-wrap: anywhere", content)


def test_a_single_epoch_is_a_point_at_its_number(run):
    rows = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(rows[:2]) + "\n")
    for quantity in ("accuracy", "loss"):
        drawing = charts.curve(read_facts(run).epochs, quantity, quantity)
        assert Page(drawing).texts.count("1") == 1 and not {"0", "2"} & set(Page(drawing).texts)
        assert drawing.count("<use ") >= 2 and "12px" in drawing


def test_curves_leave_out_what_is_no_number(run):
    content = page(read_facts(run))
    assert content.count("stroke: var(--train)") >= 2 and content.count("stroke: var(--test)") >= 2
    assert "nan" not in content.partition("<h2>Sizes")[0].partition("<h2>Training")[2]


@pytest.mark.parametrize("missing", ["summary.json", "metrics.csv", "export/report.json", "export/bench.json"])
def test_what_is_missing_is_left_out(run, missing):
    (run / missing).unlink()
    assert "<h1>resnet20 on digits</h1>" in page(read_facts(run))


def test_text_from_files_is_no_html(run):
    (run / "summary.json").write_text(json.dumps({"model": "<script>alert(1)</script>", "dataset": "a&b"}))
    content = page(read_facts(run))
    assert "<script" not in content and "&lt;script&gt;" in content and "a&amp;b" in content


def test_sizes_up_to_ten_megabytes_are_in_one_unit():
    assert [size(count) for count in (999, 288_000, 1_097_792, 9_999_900, 10_000_000)] == [
        "999 B", "288.0 kB", "1097.8 kB", "9999.9 kB", "10.0 MB",
    ]  # fmt: skip
    assert [times_smaller(1_094_088, count) for count in (74_000, 1_090_000, 1_097_792)] == ["14.8x", "no", "no"]


@pytest.mark.parametrize("change", ['"accuracy"', '"size_bytes"', '"format"', '"test_accuracy"'])
def test_files_without_their_figures_are_one_line(run, change):
    for path in (run / "summary.json", run / "export/report.json", run / "export/bench.json"):
        path.write_text(path.read_text().replace(change, '"other"'))
    try:
        write_page(run)
    except FsgError as error:
        assert "is damaged or of another version" in str(error) and change.strip('"') in str(error)


def test_damaged_files_are_named(run, tmp_path):
    with pytest.raises(FsgError, match="nowhere: holds neither a finished epoch nor an export"):
        read_facts(tmp_path / "nowhere")
    (run / "metrics.csv").write_text("epoch,test_loss\n1,low\n")
    with pytest.raises(FsgError, match=r"metrics\.csv: cannot be read"):
        read_facts(run)
    (run / "metrics.csv").unlink()
    (run / "summary.json").write_text("[1]")
    with pytest.raises(FsgError, match=r"summary\.json: is no JSON object"):
        read_facts(run)


@pytest.mark.parametrize("accuracies", [(0.98, 0.985, 0.99), (0.1,), (0.5, 0.5), (0.02, 0.97), (0.9999, 1.0)])
def test_ticks_of_a_curve_differ_from_each_other(accuracies):
    epochs = [{"epoch": i + 1, "train_accuracy": value, "test_accuracy": value} for i, value in enumerate(accuracies)]
    texts = Page(charts.curve(epochs, "accuracy", "accuracy")).texts
    ticks = [text for text in texts if text.endswith("%")]
    assert len(ticks) == len(set(ticks)) >= 2 and texts.count("epoch") == 1
    assert all(text.isdecimal() for text in texts if text and text not in (*ticks, "epoch"))


def test_without_matplotlib_the_page_says_so(run, monkeypatch):
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    content = page(read_facts(run))
    assert "<svg" not in content and "where matplotlib is installed" in content
