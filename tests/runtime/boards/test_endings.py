"""What is left on a board, and on this machine, however a measurement ends."""

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fsg.runtime.boards import board as boards
from fsg.runtime.boards.devices import Device
from fsg.runtime.measure import on_board as remote

pytest.importorskip("asyncssh", reason="the virtual board needs asyncssh")
from hasty import await_that, processes_in

pytestmark = [
    pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh"),
    pytest.mark.usefixtures("scratch", "stand_in"),
    pytest.mark.xdist_group("boards"),  # which mostly wait, and should not be kept waiting by one another
]
HERE = Device("local", machine=platform.machine())
BOTH = pytest.mark.parametrize("virtual", ["ssh", "adb"], indirect=True)


MEASURES = """
import sys
from pathlib import Path
from fsg.runtime.boards import board as boards
from fsg.runtime.boards.adb import AdbBoard
from fsg.runtime.boards.devices import Device
from fsg.runtime.boards.ssh import SshBoard
from fsg.runtime.library import Target
from fsg.runtime.measure import on_board as remote
_, machine, program, model, *ssh = sys.argv
boards.target = lambda machine, system: Target(machine, Path(program), Path(program))
boards.runtime_library = lambda machine, given, progress, system: Path(program)
is_phone = ssh and ssh[0].startswith("adb")
board = SshBoard(ssh[0], port=int(ssh[1]), options=ssh[2:]) if ssh[1:] else boards.LocalBoard()
board = AdbBoard(ssh[0]) if is_phone else board
with board:
    tell = lambda text: print(text, flush=True)
    device = Device("x", machine=machine, system="android" if is_phone else "linux")
    remote.measure(board, [Path(model)], device=device, progress=tell)
"""


@pytest.fixture
def measuring(tmp_path, model, scratch):
    """Starts a process that measures a slow model, and waits until it does."""
    model.write_bytes(model.read_bytes() + b"slow")

    def start(home, machine, *ssh):
        command = [sys.executable, "-c", MEASURES, machine, tmp_path / "program", model, *ssh]
        environment = {**os.environ, "HOME": str(home), "TMPDIR": scratch}
        process = subprocess.Popen(
            [*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not process.stdout.readline().startswith(b"measuring"):
            assert process.poll() is None, process.stderr.read()
        await_that(lambda: processes_in(home))
        return process

    return start


@BOTH
def test_an_interrupt_cleans_up(measuring, tmp_path, virtual):
    process = measuring(virtual.home, "aarch64", *virtual.words)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert not virtual.leftovers
    await_that(lambda: not processes_in(virtual.home))


@BOTH
def test_a_killed_fsg_leaves_nothing_on_the_board(measuring, virtual, scratch):
    process = measuring(virtual.home, "aarch64", *virtual.words)
    process.kill()
    process.communicate(timeout=60)
    await_that(lambda: not virtual.leftovers)
    await_that(lambda: not processes_in(virtual.home))
    for folder in Path(scratch).iterdir():  # nobody is left to remove this side's, which holds nothing
        await_that(lambda folder=folder: not list(folder.iterdir()))
        folder.rmdir()


def test_this_machine_is_measured_the_same_way(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = set(os.listdir(tmp_path))
    with boards.LocalBoard() as board:
        (record,) = remote.measure(board, [model], device=HERE)
        assert set(os.listdir(tmp_path)) > before
    assert "host" not in record and record["device"] == "local" and record["latency_ms"]["p50"] == 0.2
    assert set(os.listdir(tmp_path)) == before


def test_an_interrupt_cleans_this_machine_up(measuring, tmp_path):
    before = {*os.listdir(tmp_path)}
    process = measuring(tmp_path, platform.machine())
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert {*os.listdir(tmp_path)} <= before | {"my model.tflite"}
    await_that(lambda: not processes_in(tmp_path))
