"""A virtual board or phone, and stand-ins for what is sent to it."""

import os
import tempfile

import pytest
import records
from hasty import Hasty, HastyPhone, await_that
from stand_in import stand_in_target
from stand_in_phone import StandInPhone

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
def virtual(request):
    """A virtual board that ssh reaches, or, where tests ask for it, a phone; nothing of fsg is on it after a test."""
    return request.getfixturevalue({"ssh": "behind_ssh", "adb": "phone"}[getattr(request, "param", "ssh")])


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A phone that adb reaches; nothing of fsg is on it after a test."""
    phone = StandInPhone(tmp_path / "phone")
    monkeypatch.setenv("PATH", str(phone.adb_folder), prepend=os.pathsep)
    yield phone
    await_that(lambda: not phone.leftovers)


@pytest.fixture
def behind_ssh(tmp_path):
    """A virtual board that ssh reaches; nothing of fsg is on it after a test."""
    asyncssh_board = pytest.importorskip("virtual_board", reason="the virtual board needs asyncssh")
    with asyncssh_board.VirtualBoard(tmp_path / "virtual") as virtual:
        yield virtual
        virtual.thaw()
        await_that(lambda: not virtual.leftovers)


@pytest.fixture
def board(virtual):
    """What reaches it."""

    def make(*, timeout_s=60.0, host=virtual.host, port=None, options=(), hasty=None):
        if isinstance(virtual, StandInPhone):
            made = HastyPhone(host, timeout_s=timeout_s)
            made.hasty = hasty
            return made
        options = [*options, *virtual.options]
        made = Hasty(host, port=port or virtual.port, options=options, timeout_s=timeout_s)
        made.hasty = hasty
        return made

    return make
