"""Measurements on a board behind ssh or adb, and what can go wrong; a shell script stands in for the program."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import blocks
import pytest
import records

from fsg import FsgError
from fsg.runtime.boards import board as boards
from fsg.runtime.boards.child import Child
from fsg.runtime.boards.litert import runtime_library
from fsg.runtime.boards.ssh import SshBoard
from fsg.runtime.library import target
from fsg.runtime.measure import on_board as remote

pytest.importorskip("asyncssh", reason="the virtual board needs asyncssh")
from faulty_board import FAULTS
from hasty import RPI4, await_that, measure, processes_in, profile
from stand_in import emulator_words

pytestmark = [
    pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh"),
    pytest.mark.usefixtures("scratch", "stand_in"),
    pytest.mark.xdist_group("boards"),  # which mostly wait, and should not be kept waiting by one another
]

BOTH = pytest.mark.parametrize("virtual", ["ssh", "adb"], indirect=True)


@BOTH
def test_a_board_is_measured(virtual, board, model):
    told = []
    found = measure(
        board(), model, threads=[1, 4], runs=2, cpus=[2, 3], cooldown_ms=5, profile=True, progress=told.append
    )
    assert [record["threads"] for record in found] == [1, 4]
    record = found[0]
    assert (record["kind"], record["device"], record["host"]) == ("measured", virtual.device, virtual.host)
    assert record["artefact"] == str(model) and record["size_bytes"] == model.stat().st_size and record["runs"] == 2
    assert record["latency_ms"]["p50"] == 0.2 and record["first_run_ms"] == 0.9005
    assert record["facts"]["before"]["cpu"] == record["cpu"] == "Cortex-A72"
    assert record["kernels"] == (
        "run model.tflite --runtime ./liblitert.so --delegate ./libfsg_delegate.so --progress"
        " --runs 2 --warmup 10 --cpus 2,3 --cooldown-ms 5 --profile --threads 1"
    )
    assert any("governor" in text for text in record["warnings"]) and record["ops"] == []
    assert f"{virtual.host}: Cortex-A72, governor ondemand, 81.2 °C, load 0.1" in told
    assert f"{virtual.host}: run 1/2" in told and any("with 4 threads" in text for text in told)


@pytest.mark.slow
@pytest.mark.skipif(blocks.why_not() is not None, reason=str(blocks.why_not()))
def test_the_native_program_runs_on_the_virtual_board(virtual, board, tmp_path, monkeypatch):
    monkeypatch.setattr(boards, "target", target)
    monkeypatch.setattr(boards, "runtime_library", runtime_library)
    virtual.emulator = emulator_words(tmp_path)
    (record,) = measure(board(), records.model_file(tmp_path / "model.tflite"), runs=2)
    assert record["kernels"] == "neon-a72" and record["facts"]["after"]["machine"] == "aarch64"


def test_all_commands_share_one_connection(virtual, board, model):
    with board() as open_board:
        remote.measure(open_board, [model], device=RPI4)
        assert virtual.connections == 1 and len(virtual.commands) > 6


@BOTH
def test_several_models_leave_no_copies(virtual, board, model):
    with board() as open_board:
        for _ in range(2):
            remote.measure(open_board, [model, model], device=profile(open_board))
        (folder,) = virtual.leftovers
        assert "model.tflite" not in os.listdir(virtual.home / folder)
        assert sum("cat > liblitert.so" in command for command in virtual.commands) == 1


@BOTH
def test_what_a_users_shell_says_is_no_answer(virtual, board, model):
    virtual.noise = "echo Welcome; echo you have mail >&2; "
    assert measure(board(), model)[0]["latency_ms"]["p50"] == 0.2


def test_the_users_multiplexing_may_begin_with_us(virtual, board, model):
    """A connection that ssh itself keeps in the background stays open, but not our pipes."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="t"))
    words = ["-o", f"ControlPath={folder / 'mine'}", "-o", "ControlMaster=auto", "-o", "ControlPersist=120"]
    start = time.monotonic()
    measure(board(options=words), model)
    assert time.monotonic() - start < 40 and virtual.connections == 1
    ask = ["ssh", *virtual.options, *words, "-p", str(virtual.port), "-O", "exit", "pi@127.0.0.1"]
    subprocess.run(ask, check=True, capture_output=True)
    folder.rmdir()


def test_the_users_multiplexing_is_used(virtual, board, model, tmp_path):
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="t")) / "mine"
    words = ["-o", f"ControlPath={path}"]
    ssh, host = ["ssh", *virtual.options, *words], ["-p", str(virtual.port), "pi@127.0.0.1"]
    with subprocess.Popen([*ssh, "-M", "-N", *host], stdin=subprocess.DEVNULL):
        try:
            await_that(path.exists)
            measure(board(options=words), model)
            assert virtual.connections == 1
        finally:  # a signal might come just before ssh begins to wait, and be forgotten
            subprocess.run([*ssh, "-O", "exit", *host], check=True, capture_output=True)
    path.parent.rmdir()


CAUSES = {
    "full disk": r"cannot store library \(0\.3 MB\): .*No space left on device",
    "damaged copy": r"library arrived damaged: 15 bytes of 300000",
    "killed": r"was killed: Killed; is there enough memory\?",
    "killed by itself": r"was killed: Illegal instruction$",
    "garbage": r"did not answer in JSON while measuring my model\.tflite",
    "endless garbage": r"far more output than there should be",
    "no loader": r"cannot be started .*needs glibc",
    "old system": r"version GLIBC_2\.30 not found; its system is too old: Debian 11, Raspberry Pi OS Bullseye",
    "program fails": r": /.*/my model\.tflite: the model is for a greater board$",
    "32-bit programs": r"its kernel is aarch64, but its programs are 32-bit; .*install the 64-bit Raspberry Pi OS",
    "no times": r"an answer that makes no sense: times_us is \[\]$",
    "no memory": r"an answer that makes no sense: peak_rss_bytes is 0$",
    "odd facts": r"an answer that makes no sense: load is 'high'$",
    "drop": r"the connection was lost while measuring my model\.tflite",
}
PHONE_CAUSES = CAUSES | {
    "no loader": r"cannot be started .*needs a 64-bit Android$",
    "old system": r"version GLIBC_2\.30 not found$",
    "32-bit programs": r"its kernel is aarch64, but its programs are 32-bit; binary kernels need a 64-bit Android$",
    "unplug": r"the connection was lost while measuring my model\.tflite",
}
FAULTY = [
    pytest.param(kind, fault, id=f"{kind} {fault}")
    for kind, causes in (("ssh", CAUSES), ("adb", PHONE_CAUSES))
    for fault in causes
]


@pytest.mark.parametrize(("virtual", "fault"), FAULTY, indirect=["virtual"])
def test_a_fault_is_one_line_and_leaves_nothing(virtual, refused, tmp_path, fault):
    assert CAUSES.keys() >= FAULTS.keys()
    virtual.fault = fault
    model = records.model_file(tmp_path / "my model.tflite")
    start = time.monotonic()
    line = refused("bench", model, *virtual.where, "--timeout", "60")
    assert time.monotonic() - start < 60
    cause = (PHONE_CAUSES if virtual.host.startswith("adb") else CAUSES)[fault]
    assert re.search(cause, line.strip()) and line.startswith(f"fsg: error: {virtual.host}: ")
    assert line.removesuffix("\n").isprintable()
    await_that(lambda: not virtual.leftovers)


@BOTH
def test_a_board_that_stalls_is_given_up(virtual, board, model):
    virtual.fault = "stall"
    start = time.monotonic()
    with pytest.raises(FsgError, match=r"no sign of life for 2 s while measuring .* may be left there") as caught:
        measure(board(hasty="measuring"), model)
    assert 2 < time.monotonic() - start < 25
    assert "\n" not in str(caught.value) and virtual.host in str(caught.value)
    virtual.thaw()
    await_that(lambda: not virtual.leftovers)


@BOTH
def test_a_program_that_stalls_is_stopped(virtual, board, model, time_to_close):
    model.write_bytes(model.read_bytes() + b"slow")
    with pytest.raises(FsgError, match=r"no sign of life for 2 s while measuring my model\.tflite; [^;]*$"):
        measure(board(hasty="measuring"), model)
    assert not virtual.leftovers
    await_that(lambda: not processes_in(virtual.home))


@pytest.mark.parametrize(
    ("virtual", "machine", "cause"),
    [
        ("ssh", "armv7l", r"runs a 32-bit system \(armv7l\); .*install the 64-bit Raspberry Pi OS"),
        ("ssh", "x86_64", r"is x86_64, but the device rpi4 is aarch64: choose another --device"),
        ("adb", "armv8l", r"runs a 32-bit system \(armv8l\); binary kernels need a 64-bit Android$"),
        ("adb", "x86_64", r"is x86_64, but the device android is aarch64: choose another --device"),
    ],
    indirect=["virtual"],
)
def test_a_wrong_architecture_is_refused(virtual, board, model, machine, cause):
    virtual.machine = machine
    with pytest.raises(FsgError, match=cause):
        measure(board(), model)
    assert not any("cat >" in command and "fsg_benchmark" in command for command in virtual.commands)


def test_another_system_is_refused(virtual, board, model):
    virtual.script("uname", "echo Darwin")
    with pytest.raises(FsgError, match=r"pi@127\.0\.0\.1 runs Darwin; boards are measured on Linux and Android"):
        measure(board(), model)


def test_a_home_that_cannot_be_written_is_avoided(virtual, board, model):
    virtual.script(
        "mkdir", 'case $PWD in /tmp) exec /bin/mkdir "$@" ;; esac; echo "$1: Read-only file system" >&2; exit 1'
    )
    with board() as open_board:
        assert remote.measure(open_board, [model], device=RPI4) and not virtual.leftovers
    virtual.script("mkdir", 'echo "mkdir: $1: No space left on device" >&2; exit 1')
    with pytest.raises(FsgError, match=r"cannot make a folder for programs there: .*No space left on device"):
        measure(board(), model)


def test_a_home_that_allows_no_programs_is_avoided(virtual, board, model):
    virtual.script("chmod", 'case $PWD in /tmp/.fsg*) exec /bin/chmod "$@" ;; esac')
    with board() as open_board:
        assert remote.measure(open_board, [model], device=RPI4) and not virtual.leftovers
    virtual.script("chmod", "")
    with pytest.raises(FsgError, match=r"cannot make a folder for programs there: .*[Pp]ermission denied"):
        measure(board(), model)


@BOTH
def test_a_command_that_hangs_is_not_waited_for(virtual, board, model, time_to_close):
    """Although the connection that it shares with the keeper stays open for as long."""
    virtual.script("chmod", 'case $2 in fsg*) sleep 60 ;; esac; exec /bin/chmod "$@"')
    with pytest.raises(FsgError, match=r"no sign of life for 2 s while making the program executable; [^;]*$"):
        start = time.monotonic()
        measure(board(hasty="making the program executable"), model)
    assert time.monotonic() - start < 40 and not virtual.leftovers


@BOTH
def test_a_shell_that_does_something_else_is_refused(virtual, board, model):
    virtual.noise = "echo fsg-begin; echo fsg-ready; exit; "
    with pytest.raises(FsgError, match="its shell does not do what it is told: 'fsg-begin"):
        measure(board(), model)
    virtual.noise = "echo This account is not available.; exit 1; "
    with pytest.raises(FsgError, match="its shell does not do what it is told: 'This account is not available"):
        measure(board(), model)


def test_connections_that_do_not_come_about_say_why(virtual, board, model, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(FsgError, match=r"^pi@127\.0\.0\.1: no connection: .*refused; is ssh enabled on it"):
            measure(board(port=other.getsockname()[1]), model)
        other.listen()
        with pytest.raises(FsgError, match=r"no sign of life for 1 s while connecting|timed out"):
            measure(board(port=other.getsockname()[1], timeout_s=1), model)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    with pytest.raises(FsgError, match=r"ermission denied.*ssh-copy-id -p \d+ pi@127\.0\.0\.1`"):
        virtual.key = tmp_path / "other"
        measure(board(), model)
    public = (tmp_path / "other.pub").read_text()
    virtual.known_hosts.write_text(f"[127.0.0.1]:{virtual.port} {public}")
    with pytest.raises(FsgError, match=r"ost key verification failed.*another than before; .*`ssh-keygen -R"):
        measure(board(), model)
    virtual.known_hosts.write_text("")
    with pytest.raises(FsgError, match=r"ost key verification failed.*connect to it once with `ssh -p"):
        measure(board(), model)
    with pytest.raises(FsgError, match=r"nobody.invalid: no connection: .*switched on, and is this its name"):
        measure(board(host="nobody.invalid"), model)


def test_mistakes_in_what_is_given_are_refused(board, model, monkeypatch):
    with pytest.raises(FsgError, match="--host is empty"):
        SshBoard("")
    with pytest.raises(FsgError, match=r"(?i)bad.*nonsense"):
        measure(board(options=["-o", "Nonsense=1"]), model)
    with pytest.raises(FsgError, match=r"^-oProxyCommand=false: "):  # a host, and no option
        measure(board(host="-oProxyCommand=false"), model)
    with pytest.raises(FsgError, match=r"gone\.tflite: cannot be read \(No such file"):
        measure(board(), model.with_name("gone.tflite"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FsgError, match="there is no ssh on this machine: install"):
        measure(board(), model)


@BOTH
def test_leftovers_of_other_runs_are_removed(virtual, board):
    """Of a keeper that is dead, and of one whose fsg is dead; not of one that is at work."""
    for name in (f".fsg-board.{virtual.name}.other-1.999999999", ".fsg-board.elsewhere.other-1.999999999"):
        (virtual.home / name).mkdir()
        (virtual.home / name / "model.tflite").touch()
    dead = subprocess.Popen(["true"])
    dead.wait()
    scripts = [boards.keeper_script(dead.pid), boards.keeper_script()]
    keepers = [Child(board()._command(script), silence_s=60, limit=1000) for script in scripts]
    try:
        for keeper in keepers:
            keeper.listen(until=lambda keeper=keeper: b"fsg-ready" in keeper.output)
        with board():
            names = [name for name in virtual.leftovers if f"-{dead.pid}." not in name and "other" not in name]
            assert len(names) == 2 and set(virtual.leftovers) == {*names, ".fsg-board.elsewhere.other-1.999999999"}
    finally:
        for keeper in keepers:
            keeper.kill()
    (virtual.home / ".fsg-board.elsewhere.other-1.999999999" / "model.tflite").unlink()
    (virtual.home / ".fsg-board.elsewhere.other-1.999999999").rmdir()
