"""`fsg bench` and `fsg report` as their users meet them, with stand-ins for boards and the emulator."""

import csv
import errno
import hashlib
import json
import os
import shlex
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import records
from lce import Graph

from fsg.runtime.measure.bench import ending_in_good_order, thread_hints
from fsg.runtime.model.metadata import add_tflite_metadata


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    records.model_file(tmp_path / "model.tflite")
    return tmp_path


def test_without_a_board(fsg, parts):
    code, out, _ = fsg("bench", "model.tflite", "--device", "rpi4", "--threads", "1,4", "--json", "bench.json")
    assert code == 0 and "Without a board: what can be known of rpi4" in out and out.count("ms estimated") == 2
    command = "fsg bench model.tflite --device rpi4 --threads 1,4 --json bench.json --host USER@HOST"
    assert f"to measure on a board: {command}" in out
    found = json.loads(Path("bench.json").read_text())
    records.validate(found)
    assert [record["kind"] for record in found] == ["emulated", "estimated", "estimated"]

    # The command that is shown does measure.
    arguments = shlex.split(command.replace("USER@HOST", "pi@desk"))[1:]
    code, out, _ = fsg(*arguments)
    found = json.loads(Path("bench.json").read_text())
    assert code == 0 and "to measure" not in out
    assert [(record["kind"], record["host"], record["threads"]) for record in found] == [
        ("measured", "pi@desk", 1),
        ("measured", "pi@desk", 4),
    ]
    records.validate(found)


def test_without_a_board_and_without_an_emulator(fsg, parts):
    parts.emulation.why_not = lambda: "qemu-aarch64 is missing: apt-get install qemu-user"
    code, out, err = fsg("bench", "model.tflite", "--device", "rpi4", "--json", "-")
    assert code == 0 and [record["kind"] for record in json.loads(out)] == ["estimated"]
    assert "not emulated: qemu-aarch64 is missing: apt-get install qemu-user" in err and "--host USER@HOST" in err


def test_where_nothing_can_be_known_that_is_an_error(refused, parts, monkeypatch):
    device = replace(parts.find_device("rpi4"), core="")
    monkeypatch.setattr(sys.modules["fsg.runtime.boards.devices"], "find_device", lambda *_: device)
    parts.emulation.why_not = lambda: "qemu-aarch64 is missing"
    line = refused("bench", "model.tflite", "--device", "rpi4", "--json", "none.json")
    assert "nothing can be known of rpi4 here: not emulated: qemu-aarch64 is missing; no estimate for rpi4" in line
    assert not Path("none.json").exists()


def test_brackets_are_no_markup(fsg, parts, here):
    (here / "[red]model[0].tflite").write_bytes((here / "model.tflite").read_bytes())
    code, out, _ = fsg("bench", "[red]model[0].tflite", "--device", "rpi4", "--host", "ssh://pi@[fe80::1]")
    assert code == 0 and "[red]model[0].tflite" in out and "pi@[fe80::1]: the governor" in out


def test_a_command_that_is_told_to_stop_still_cleans_up():
    with pytest.raises(SystemExit) as caught, ending_in_good_order():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert caught.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_one_board_of_two_does_not_answer(fsg, parts):
    hosts = ("--host", "broken", "--host", "pi@desk")
    code, out, err = fsg("bench", "model.tflite", "--device", "rpi4", *hosts, "--json", "bench.json")
    assert code == 2 and err == "fsg: error: broken: no route to host; is it on?\n" and "pi@desk" in out
    assert [record["host"] for record in json.loads(Path("bench.json").read_text())] == ["pi@desk"]


def test_ssh_words_are_handed_on(fsg, parts):
    Path("lib.so").touch()
    ssh = ("-p", "2222", "-i", "key", "-o", "ProxyJump=gate", "-o", "User=pi", "--timeout", "7")
    how = ("--cpus", "0,3", "--cooldown", "20", "--runs", "9", "--profile", "--runtime-lib", "lib.so")
    code, out, _ = fsg("bench", "model.tflite", "--device", "rpi4", "--host", "pi@desk", *ssh, *how)
    assert code == 0 and "Where the time of model.tflite goes on pi@desk, 1 thread" in out
    (_, _, options), (_, _, found), _ = parts.asked
    assert options["port"] == 2222 and options["timeout_s"] == 7 and str(options["runtime_lib"]) == "lib.so"
    assert options["options"] == ["-i", "key", "-o", "ProxyJump=gate", "-o", "User=pi"]
    assert found == {"runs": 9, "warmup": 10, "cpus": [0, 3], "cooldown_ms": 20, "seconds": 0}


def test_the_same_records_in_every_form(fsg, parts):
    board = ("--device", "rpi4", "--host", "pi@desk")
    paths = ("--json", "a/r.json", "--csv", "b/r.csv", "--markdown", "c/r.md")
    code, out, _ = fsg("bench", "model.tflite", *board, *paths)
    (record,) = json.loads(Path("a/r.json").read_text())
    (line,) = csv.DictReader(Path("b/r.csv").read_text().splitlines())
    assert code == 0 and float(line["latency_ms.p50"]) == record["latency_ms"]["p50"] == 1.5
    assert "| model.tflite | 1 | 1.500 |" in Path("c/r.md").read_text() and "1.500" in out
    assert fsg("bench", "model.tflite", *board, "--csv", "-")[1].startswith("artefact,format,")
    assert fsg("bench", "model.tflite", *board, "--markdown", "-")[1].startswith("**Time for one image on rpi4")


def test_accuracy_beside_latency(fsg, parts, tmp_path):
    """A network of one global maximum over each of three channels, so that the images below have a known class."""
    graph = Graph()
    source = graph.tensor([1, 8, 8, 3])
    path = tmp_path / "colour.tflite"
    sizes = {"filterHeight": 8, "filterWidth": 8, "strideH": 1, "strideW": 1, "padding": 1}
    content = graph.build([source], [graph.builtin("MAX_POOL_2D", [source], [1, 1, 1, 3], **sizes)])
    names = ["red", "green", "blue"]
    metadata = {"mean": [0.5] * 3, "std": [0.25] * 3, "class_names": names, "input_shape": [1, 3, 8, 8]}
    path.write_bytes(add_tflite_metadata(content, metadata))
    images, labels = np.zeros((8, 3, 8, 8), np.uint8), np.array([0, 1, 2, 0, 1, 2, 0, 1])
    images[np.arange(8), labels, 3, 4] = 255
    labels[:2] = 2  # wrong for two of eight
    np.savez("data.npz", x_test=images, y_test=labels, class_names=np.array(names))
    for device in ((), ("--device", "rpi4", "--host", "pi@desk")):
        code, out, _ = fsg("bench", path, *device, "--runs", 2, "--accuracy", "npz:data.npz", "--json", "r.json")
        (record,) = json.loads(Path("r.json").read_text())
        assert code == 0 and (record["accuracy"], record["dataset"]) == (0.75, "npz:data.npz") and "75.00%" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "pi"], "--host needs to know what it reaches: name the board with --device"),
        (["-p", "22"], "-p, -i and -o are for ssh: say with --host where the board is"),
        (["--device", "rpi4", "-o", "User=pi"], "say with --host where the board is"),
        (["--device", "rpi44"], "no device is called rpi44; there are local, rpi4, rpi5"),
        (["--baseline", "float16"], "--baseline float16: choose float32, int8"),
        (["--baseline", "int8"], "model.tflite: --baseline makes the same network in other numbers from the run"),
        (["--cpus", "0-3"], "--cpus 0-3: give numbers of at least 0, such as 2,3"),
        (["--accuracy", "digitz"], "did you mean digits?"),
        (["--timeout", "0"], "0.0 is not in the range"),
        (["nowhere.tflite"], "nowhere.tflite: no such file"),
    ],
)
def test_mistakes_are_one_line(refused, parts, arguments, message):
    assert message in refused("bench", "model.tflite", *arguments)


def test_a_folder_without_an_export_is_no_model(refused, here):
    (here / "runs").mkdir()
    assert "runs: nothing exported: fsg export runs --format tflite" in refused("bench", "runs")


def test_a_baseline_needs_the_packages_of_training(refused, parts, here, monkeypatch):
    run = here / "net"
    (run / "export").mkdir(parents=True)
    (run / "config.toml").write_text("")
    records.model_file(run / "export" / "model.tflite")
    (run / "export" / "report.json").write_text("{}")
    monkeypatch.setattr("fsg.commands.bench.find_spec", lambda name: None)
    assert "--baseline needs the package torch: pip install 'fsg[lce]'" in refused("bench", "net", "--baseline", "int8")


def test_a_run_that_was_trained_on_since_its_export_has_no_baseline(refused, parts, here, monkeypatch):
    run = here / "net"
    (run / "export").mkdir(parents=True)
    (run / "config.toml").write_text("")
    (run / "checkpoint.pt").write_bytes(b"other weights")
    records.model_file(run / "export" / "model.tflite")
    (run / "export" / "report.json").write_text(json.dumps({"checkpoint": hashlib.sha256(b"weights").hexdigest()}))
    monkeypatch.setattr("fsg.commands.bench.find_spec", lambda name: name)
    line = refused("bench", "net", "--baseline", "float32")
    assert "net/export/model.tflite: the run was trained on since" in line and "fsg export net --format tflite" in line


def test_a_folder_that_cannot_be_written_costs_no_record(fsg, parts, here, monkeypatch):
    export = here / "net" / "export"
    export.mkdir(parents=True)
    records.model_file(export / "model.tflite")
    (export / "report.json").write_text("{}")
    replace = Path.replace

    def full(self, target):
        if Path(target).name == "bench.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    code, out, _ = fsg("bench", "net", "--device", "rpi4", "--host", "pi@desk", "--json", "r.json")
    assert code == 0 and "model.tflite" in out and len(json.loads(Path("r.json").read_text())) == 1
    assert "not kept for fsg report: cannot write net/export/bench.json: No space left on device" in out


def test_records_of_an_export_come_into_its_report(fsg, refused, parts, here):
    export = here / "net" / "export"
    export.mkdir(parents=True)
    records.model_file(export / "model.tflite")
    (export / "report.json").write_text("{}")
    assert fsg("bench", "net", "--device", "rpi4", "--host", "pi@desk", "--profile")[0] == 0
    assert fsg("bench", "net", "--device", "rpi5")[0] == 0
    code, out, _ = fsg("report", "net")
    assert code == 0 and "report in net/report.html" in out
    text = (here / "net" / "report.html").read_text()
    assert "pi@desk" in text and "ms estimated" in text and "LceBconv2d" in text
    (here / "more.json").write_text(json.dumps([records.measured("model.tflite", host="pi@attic")]))
    assert fsg("report", "net", "--bench", "more.json", "--out", "pages/net.html")[0] == 0
    assert "pi@attic" in (here / "pages" / "net.html").read_text()
    assert "nothing.json: no such file" in refused("report", "net", "--bench", "nothing.json")
    assert "nowhere: no such folder" in refused("report", "nowhere")


def test_batches_and_a_duration(fsg, here):
    model = here / "model.tflite"
    code, out, err = fsg("bench", model, "--batch", "1,4", "--threads", "1,2", "--seconds", "0.02", "--json", "-")
    assert code == 0, err
    found = json.loads(out)
    assert [(r["artefact"], r["batch"], r["threads"]) for r in found] == [
        (str(model), batch, threads) for batch in (1, 4) for threads in (1, 2)
    ]
    records.validate(found)
    for record in found:
        assert record["seconds"] == 0.02 and record["runs"] >= 10
        assert record["images_per_s"] == pytest.approx(1e3 / record["latency_ms"]["mean"], rel=0.01)
        assert record["size_bytes"] == model.stat().st_size
    code, out, _ = fsg("bench", model, "--batch", "1,4", "--runs", "3")
    assert code == 0 and "images/s" in out and "batch: images of one inference" in out
    code, _, err = fsg("bench", model, "--batch", "0")
    assert code == 2 and "--batch 0" in err


def test_where_threads_do_not_help_is_told():
    same = {"kind": "measured", "artefact": "a/model.tflite", "device": "local"}

    def measured(threads, median, **more):
        return {**same, "threads": threads, "latency_ms": {"p50": median}, **more}

    assert thread_hints([measured(1, 1.0), measured(2, 0.6)]) == []
    assert thread_hints([measured(1, 1.0), measured(1, 1.0, batch=8), measured(4, 0.5, host="pi")]) == []
    (hint,) = thread_hints([measured(1, 1.0), measured(2, 0.9), measured(4, 1.2)])
    assert hint.startswith("model.tflite: 4 threads are at most 1.11 times as fast as one")
    hints = thread_hints([measured(n, n, host="pi", batch=8) for n in (1, 2)])
    assert hints[0].startswith("model.tflite on pi, batch 8: 2 threads are no faster than one")
