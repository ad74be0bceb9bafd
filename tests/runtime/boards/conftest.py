"""A virtual board, and stand-ins for what is sent to it."""

import os
import tempfile

import pytest
import records
from hasty import Hasty, await_that
from stand_in import stand_in_target

from fsg.runtime.boards import board as boards


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """This side's folder for temporary files: empty again after a test. (Names of sockets must be short.)"""
    folder = tempfile.mkdtemp(prefix="t")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield folder
    assert os.listdir(folder) == []
    os.rmdir(folder)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The stand-in for what is built for boards."""
    library = tmp_path / "library"
    library.write_bytes(os.urandom(300_000))
    built = stand_in_target(tmp_path, "any")
    monkeypatch.setattr(boards, "target", lambda machine, system: built)
    monkeypatch.setattr(boards, "runtime_library", lambda machine, given, progress, system: given or library)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "my model.tflite"
    return records.model_file(path)


@pytest.fixture
def time_to_close(monkeypatch):
    """For boards that were given up, but can be cleaned."""
    monkeypatch.setattr(boards, "CLOSING_SILENT_S", 60)


@pytest.fixture
def virtual(tmp_path):
    """A virtual board; nothing of fsg is on it after a test."""
    asyncssh_board = pytest.importorskip("virtual_board", reason="the virtual board needs asyncssh")
    with asyncssh_board.VirtualBoard(tmp_path / "virtual") as virtual:
        yield virtual
        virtual.thaw()
        await_that(lambda: not virtual.leftovers)


@pytest.fixture
def board(virtual):
    """What reaches it."""

    def make(*, timeout_s=60.0, host="pi@127.0.0.1", port=None, options=(), hasty=None):
        options = [*options, *virtual.options]
        made = Hasty(host, port=port or virtual.port, options=options, timeout_s=timeout_s)
        made.hasty = hasty
        return made

    return make
