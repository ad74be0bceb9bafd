"""Measurements over a real OpenSSH server, as a user has them made."""

import json

import blocks
import pytest
import records
from openssh import Server, find_server
from stand_in import emulator_words, stand_in_target

from fsg.runtime.boards import board

pytestmark = [
    pytest.mark.skipif(not find_server(), reason="there is no OpenSSH server: apt-get install openssh-server"),
    pytest.mark.xdist_group("boards"),
]


@pytest.fixture
def measured(fsg, tmp_path):
    """Runs fsg bench against a server; its records, after a look at what it left behind."""

    def run(model, *arguments, emulator=""):
        with Server(tmp_path / "board", emulator=emulator) as server:
            where = ["--host", server.host, "-p", server.port, *server.cli_options]
            code, out, err = fsg("bench", model, "--device", "rpi4", *where, "--json", "-", *arguments)
            assert code == 0, err
            assert server.leftovers == []
            found = json.loads(out)
            records.validate(found)
            assert {record["host"] for record in found} == {server.host}
        return found

    return run


def test_a_board_is_measured_and_left_as_it_was(measured, tmp_path, monkeypatch):
    model = records.model_file(tmp_path / "model.tflite")
    monkeypatch.setattr(board, "target", lambda machine, system: stand_in_target(tmp_path, machine))
    monkeypatch.setattr(board, "runtime_library", lambda machine, given, progress, system: model)
    found = measured(model, "--threads", "1,2")
    assert [record["threads"] for record in found] == [1, 2]
    assert found[0]["latency_ms"]["p50"] == 0.2 and found[0]["facts"]["after"]["cpu"] == "Cortex-A72"


@pytest.mark.slow
@pytest.mark.skipif(blocks.why_not() is not None, reason=str(blocks.why_not()))
def test_the_native_program_runs_on_an_emulated_board(measured, tmp_path):
    """What is really sent to boards, on aarch64. The times are the emulator's, and nobody's business."""
    model = records.model_file(tmp_path / "model.tflite")
    arguments = ["--threads", "1,2", "--runs", "3", "--cpus", "0", "--profile"]
    found = measured(model, *arguments, emulator=emulator_words(tmp_path))
    assert [(record["threads"], record["runs"], record["cpus"]) for record in found] == [(1, 3, [0]), (2, 3, [0])]
    for record in found:
        assert record["kernels"] == "neon-a72" and record["cpu"] == "Cortex-A72"
        assert record["facts"]["before"]["machine"] == "aarch64" and record["facts"]["after"]["bits"] == 64
        assert record["base_rss_bytes"] < record["peak_rss_bytes"] < 200e6
        assert any("LceBconv2d" in op["kind"] + op["name"] for op in record["ops"])
