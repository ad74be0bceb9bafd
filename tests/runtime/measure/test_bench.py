"""What becomes of measured, emulated and estimated records: ratios, profiles, schema, table, CSV and Markdown."""

import csv
import io
import json
from dataclasses import MISSING, fields, replace

import jsonschema
import pytest
import records
from rich.console import Console

from fsg import FsgError
from fsg.runtime.boards.devices import find_device
from fsg.runtime.boards.litert import NotFetchedError
from fsg.runtime.measure import bench
from fsg.runtime.measure.bench import Plan, bench_boards, bench_local, bench_without_board, finished
from fsg.runtime.measure.estimate import fit_efficiency
from fsg.runtime.measure.local import runs_within
from fsg.runtime.measure.records import KINDS, Model, keep, read_records
from fsg.runtime.report.table import bench_table, csv_text, markdown

PI4 = find_device("rpi4")


@pytest.fixture
def path(tmp_path):
    return records.model_file(tmp_path / "model.tflite")


@pytest.fixture
def twin(tmp_path):
    return records.model_file(tmp_path / "baseline-int8.tflite")


def text_of(table, width=100):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_every_kind_has_the_form_of_the_schema(path, parts):
    plan = Plan(threads=(1, 4), profile=True)
    outcome = bench_boards([Model(path)], PI4, ["one", "two"], plan, str)
    found, problems = outcome.records, outcome.problems
    assert not problems and [(r["host"], r["threads"]) for r in found] == [
        ("one", 1),
        ("one", 4),
        ("two", 1),
        ("two", 4),
    ]
    outcome = bench_without_board([Model(path)], PI4, plan, str)
    without, notes = outcome.records, outcome.notes
    assert not notes and [r["kind"] for r in without] == ["emulated", "estimated", "estimated"]
    records.validate(found + without)
    assert json.loads(json.dumps(found + without)) == found + without


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("emulated", {"latency_ms": records.LATENCY}),
        ("emulated", {"first_run_ms": 1.5}),
        ("emulated", {"bit_exact": None}),
        ("estimated", {"latency_ms": records.LATENCY}),
        ("estimated", {"latency_ms": {"p50": 1.5}}),
        ("measured", {"latency_ms": {"low": 1.0, "expected": 1.5, "high": 2.0}}),
        ("measured", {"kind": "guessed"}),
        ("measured", {"speed": 1}),
    ],
)
def test_the_schema_keeps_the_kinds_apart(path, parts, kind, change):
    found = bench_boards([Model(path)], PI4, ["one"], Plan(), str).records
    found += bench_without_board([Model(path)], PI4, Plan(), str).records
    (record,) = [record for record in found if record["kind"] == kind]
    records.validate([record])
    with pytest.raises(jsonschema.ValidationError):
        records.validate([{**record, **change}])


def test_a_board_that_fails_costs_its_own_rows_only(path, parts):
    outcome = bench_boards([Model(path)], PI4, ["broken", "one"], Plan(), str)
    found, problems = outcome.records, outcome.problems
    assert [record["host"] for record in found] == ["one"]
    assert [str(problem) for problem in problems] == ["broken: no route to host; is it on?"]
    assert ("closed", "broken") in parts.asked


def test_options_reach_the_board(path, parts):
    plan = Plan(cpus=(0, 1), cooldown_ms=30, ssh=bench.Ssh(port=22, options=("A=b",), identity="key", timeout_s=5))
    bench_boards([Model(path)], PI4, ["one"], plan, str)
    (_, _, options), (_, _, how), _ = parts.asked
    assert options == {"port": 22, "options": ["-i", "key", "-o", "A=b"], "timeout_s": 5, "runtime_lib": None}
    assert how == {"runs": 50, "warmup": 10, "cpus": (0, 1), "cooldown_ms": 30, "seconds": 0}


def test_without_an_emulator_the_estimate_remains(path, parts):
    parts.emulation.why_not = lambda: "qemu-aarch64 is missing: apt-get install qemu-user"
    outcome = bench_without_board([Model(path)], PI4, Plan(threads=(1, 2)), str)
    found, notes = outcome.records, outcome.notes
    assert [(r["kind"], r["threads"]) for r in found] == [("estimated", 1), ("estimated", 2)]
    assert notes == ["not emulated: qemu-aarch64 is missing: apt-get install qemu-user"]


def test_what_is_not_known_of_a_device_costs_the_estimate_only(path, parts):
    outcome = bench_without_board([Model(path)], replace(PI4, core=""), Plan(threads=(1, 2)), str)
    assert [record["kind"] for record in outcome.records] == ["emulated"]
    assert len(outcome.notes) == 1 and "no estimate for rpi4: it has an unknown core" in outcome.notes[0]


def test_a_device_of_another_machine_is_not_emulated(path, parts):
    outcome = bench_without_board([Model(path)], replace(PI4, machine="x86_64"), Plan(), str)
    assert [record["kind"] for record in outcome.records] == ["estimated"]
    assert outcome.notes == ["not emulated: rpi4 is x86_64, and no aarch64"]


def test_without_a_network_the_estimate_remains(path, parts):
    def emulate(*_, **__):
        raise NotFetchedError("cannot be fetched; give it with --runtime-lib PATH")

    parts.emulation.emulate = emulate
    outcome = bench_without_board([Model(path), Model(path)], PI4, Plan(), str)
    assert [record["kind"] for record in outcome.records] == ["estimated", "estimated"]
    assert outcome.notes == ["not emulated: cannot be fetched; give it with --runtime-lib PATH"]


def test_a_folder_that_stayed_on_a_board_is_told(path, parts):
    parts.board.left_behind = "its folder .fsg-board.1 could not be removed"
    outcome = bench_boards([Model(path)], PI4, ["one"], Plan(), str)
    assert outcome.records and outcome.notes == ["its folder .fsg-board.1 could not be removed"]


def test_counted_instructions_enter_the_estimate(path, parts):
    _, one = bench_without_board([Model(path)], PI4, Plan(), str).records
    assert "3.5 M instructions" in one["basis"]


def test_a_twin_is_compared_with_the_model_on_the_same_threads(path, twin, parts):
    models = [Model(path), Model(twin, "int8", path)]
    found = bench_boards(models, PI4, ["one"], Plan(threads=(1, 2)), str).records
    assert [record.get("times_as_long") for record in found] == [None, None, 2.0, 2.0]
    assert [record["variant"] for record in found] == ["binary", "binary", "int8", "int8"]
    records.validate(found)
    text = text_of(bench_table(found))
    assert text.count("2.00x") == 2 and "as int8" in text
    # An estimate has no ratio, whatever it says.
    assert not any("times_as_long" in record for record in bench_without_board(models, PI4, Plan(), str).records)


def test_a_profile_is_rated_and_adds_up(path, parts):
    (record,) = bench_boards([Model(path)], PI4, ["one"], Plan(profile=True, threads=(2,)), str).records
    quantize, conv, add = record["ops"]
    macs = 16 * 16 * 64 * 9 * 64
    assert sum(op["share"] for op in record["ops"]) == pytest.approx(1, abs=1e-4)
    assert (conv["binary_macs"], conv["us"]) == (macs, 1350.0)
    assert conv["gmacs_per_s"] == pytest.approx(macs / 1350e-6 / 1e9, rel=1e-3)
    assert conv["ceiling_share"] == pytest.approx(macs / 1350e-6 / (85.3 * 1.5e9 * 2), rel=1e-3)
    assert not {"binary_macs", "gmacs_per_s", "ceiling_share"} & (quantize.keys() | add.keys())
    text = text_of(bench_table([record]))
    assert "LceBconv2d" in text and "91.5%" in text and "together 1.475 ms, 98% of the median" in text


def test_an_operator_that_says_its_products_is_believed(path):
    fused = {"name": "a convolution with what follows", "kind": "fsg", "us": 50.0, "binary_macs": 3_000_000}
    rest = {"name": "LiteRT and XNNPACK", "kind": "rest", "us": 50.0, "binary_macs": 0}
    record = {**records.measured(path), "ops": [fused, rest]}
    (record,) = finished([record], [Model(path)], PI4)
    assert record["ops"][0]["gmacs_per_s"] == 60 and record["ops"][0]["share"] == 0.5
    assert record["ops"][0]["ceiling_share"] == pytest.approx(60 / (85.3 * 1.5), rel=1e-3)
    records.validate([record])
    assert finished([{**record, "ops": [fused, rest]}], [Model(path)], replace(PI4, core=""))[0]["ops"][0].keys() == {
        *("name", "kind", "us", "share", "binary_macs", "gmacs_per_s")
    }


def test_on_arm_this_machine_is_measured_as_a_board_is(path, parts, monkeypatch):
    asked = []

    def benchmark(path, **how):
        asked.append(how)
        return records.measured(path, host=None, device="local")

    monkeypatch.setattr(bench, "benchmark", benchmark)
    monkeypatch.setattr(bench.platform, "machine", lambda: "x86_64")
    plan = Plan(threads=(2,), cpus=(0,), cooldown_ms=5, profile=True)
    bench_local([Model(path)], plan, str)
    how = {"runs": 50, "warmup": 10, "cpus": (0,), "cooldown_ms": 5, "seconds": 0}
    assert not parts.asked and asked == [{**how, "threads": 2, "profile": True}]
    monkeypatch.setattr(bench.platform, "machine", lambda: "aarch64")
    outcome = bench_local([Model(path)], plan, str)
    assert len(asked) == 1 and parts.asked[1] == ("measure", None, how)
    assert outcome.records[0]["ops"][1]["ceiling_share"] > 0


def test_without_a_board_a_profile_has_shares_and_no_times(path, parts):
    emulated, estimated = found = bench_without_board([Model(path)], PI4, Plan(profile=True), str).records
    assert emulated["ops"] == records.EMULATED_PROFILE["ops"]
    assert "1.8 M cycles, the executed code as llvm-mca schedules it for cortex-a72" in estimated["basis"]
    assert estimated["latency_ms"]["expected"] == pytest.approx(1.8e6 / 1.5e9 * 1e3 / fit_efficiency(), rel=0.01)
    text = text_of(bench_table(found), width=160)
    assert "time, estimated" in text and "it leaves out memory and is no latency" in text
    (conv,) = [line.split() for line in text.splitlines() if line.startswith("LceBconv2d")]
    assert conv == ["LceBconv2d", "fsg", "3,210,987", "92.9%", "94.4%", "9.4", "M", "2.94"]
    (shared,) = [line.split() for line in text.splitlines() if line.startswith("CONV_2D")]
    assert shared == ["CONV_2D", "rest", "~200,000", "5.8%", "4.4%", "1.25"]
    assert "| LceBconv2d | fsg | 3,210,987 | 92.9% | 94.4% |" in markdown(found)


def test_no_table_gives_an_emulated_run_a_time(path, parts):
    found = bench_without_board([Model(path)], PI4, Plan(), str).records
    text = text_of(bench_table(found))
    (row,) = [line for line in text.splitlines() if "model.tflite" in line and "emulated" in line]
    assert "ms" not in row and "yes" in row and "3.5 M" in row
    (row,) = [line for line in text.splitlines() if line.startswith("model.tflite") and "estimated" in line]
    assert "ms estimated" in row and "~" in row
    assert "Without a board" in text and "median" not in text.splitlines()[1]
    emulated, estimated = csv.DictReader(io.StringIO(csv_text(found)))
    assert not any(value for name, value in emulated.items() if name.startswith(("latency", "first_run")))
    assert float(estimated["latency_ms.low"]) == found[1]["latency_ms"]["low"] and not estimated["instructions"]


def test_csv_and_markdown_are_of_the_same_records(path, twin, parts):
    models = [Model(path), Model(twin, "int8", path)]
    found = bench_boards(models, PI4, ["a|b"], Plan(profile=True), str).records
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [float(line["latency_ms.p50"]) for line in lines] == [r["latency_ms"]["p50"] for r in found]
    assert lines[1]["times_as_long"] == "2.0" and lines[0]["facts.before.governor"] == "ondemand"
    text = markdown(found)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert "| model.tflite |" in text and "2.00x" in text and "LceBconv2d" in text
    assert "**warning**: a|b: the governor is ondemand" in text
    assert len({line.count("|") for line in tables[:4]}) == 1


def test_records_are_kept_beside_the_export(path, parts):
    keep([], [Model(path)])
    assert not (path.parent / "bench.json").exists()
    path.with_name("report.json").write_text("{}")
    first = bench_boards([Model(path)], PI4, ["one", "two"], Plan(), str).records
    keep(first, [Model(path)])
    again = bench_boards([Model(path)], PI4, ["one"], Plan(threads=(1, 4), runs=7), str).records
    keep(again, [Model(path)])
    kept = read_records(path.parent / "bench.json")
    assert [(r["host"], r["threads"]) for r in kept] == [("two", 1), ("one", 1), ("one", 4)]
    records.validate(kept)
    (path.parent / "bench.json").write_text('{"a": 1}')
    with pytest.raises(FsgError, match=r"bench\.json: holds no records"):
        read_records(path.parent / "bench.json")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_seconds_are_a_length_of_time(seconds):
    assert [runs_within(*times) for times in ((2.0, 0.01), (1e-9, 0.01), (1e9, 0.01))] == [200, 10, 200_000]
    with pytest.raises(FsgError, match="give a number above 0"):
        runs_within(seconds, 0.01)


def test_boards_run_tflite_only(tmp_path, parts):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(FsgError, match=r"model\.onnx: rpi4 runs \.tflite files"):
        bench_boards([Model(tmp_path / "model.onnx")], PI4, ["one"], Plan(), str)
    assert not parts.asked and not finished([], [], PI4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_describes_the_fields_of_every_kind(kind):
    every, own = (records.SCHEMA["$defs"][name] for name in ("any_record", kind))
    described = every["properties"] | own["properties"]
    assert {field.name for field in fields(KINDS[kind])} == described.keys()
    needed = {field.name for field in fields(KINDS[kind]) if field.default is MISSING} | {
        "kind",
        "variant",
        "fsg_version",
    }
    assert needed == {*every["required"], *own["required"]}
