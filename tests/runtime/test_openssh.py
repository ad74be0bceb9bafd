"""Measurements over a real OpenSSH server."""

import pytest
from openssh import Server, find_server
from stand_in import stand_in_target

from fsg.runtime import remote
from fsg.runtime.devices import find_device

pytestmark = pytest.mark.skipif(not find_server(), reason="there is no OpenSSH server: apt-get install openssh-server")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3")
    return path


def test_a_board_is_measured_and_left_as_it_was(tmp_path, model, monkeypatch):
    monkeypatch.setattr(remote, "target", lambda machine: stand_in_target(tmp_path, machine))
    monkeypatch.setattr(remote, "runtime_library", lambda machine, given, progress: model)
    with Server(tmp_path / "board") as server:
        with remote.Board(server.host, port=server.port, options=server.options) as board:
            assert board.machine == "aarch64" and len(server.leftovers) == 1
            records = remote.measure(board, [model], device=find_device("rpi4"), threads=[1, 2])
        assert server.leftovers == []
    assert [record["threads"] for record in records] == [1, 2]
    assert records[0]["host"] == server.host and records[0]["latency_ms"]["p50"] == 0.2
