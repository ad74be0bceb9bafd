"""One process at a time in a run folder, and files that take another's place at once."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import fsg as package
from fsg import FsgError, replacing
from fsg.training.config import Config, save_config
from fsg.training.folder import LOCK, new_run, only_one, run_lock

HOLDER = """
import sys, time
from pathlib import Path
from fsg.training.folder import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_of_a_run_is_refused_in_one_line(refused, holder, tmp_path):
    line = f"fsg: error: another fsg train is at work in {tmp_path}: wait for it, or choose another --out"
    assert line in refused("train", "--out", tmp_path)
    save_config(Config(), tmp_path / "config.toml")
    assert line in refused("train", "--resume", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, "config.toml"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_lock_ends_with_its_process(holder, tmp_path, end):
    holder.send_signal(end)
    holder.wait()
    with run_lock(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_prevents_no_training(tmp_path, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with new_run(Config(), tmp_path / "run") as folder:
        assert (folder / "config.toml").exists()
    assert [path.name for path in folder.iterdir()] == ["config.toml"]


def test_of_many_only_one_holds_a_lock_at_any_moment(tmp_path):
    inside, most, passed = 0, 0, 0
    guard = threading.Lock()

    def work():
        nonlocal inside, most, passed
        for _ in range(200):
            try:
                with only_one(tmp_path, "taken"):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                        passed += 1
                    time.sleep(0.0001)
                    with guard:
                        inside -= 1
            except FsgError as error:
                assert str(error) == "taken"

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0) and passed > 10 and not list(tmp_path.iterdir())


def test_a_training_interrupted_in_its_first_epoch_can_be_resumed(fsg, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fsg.training.loop.train", interrupt)
    for command in (("--out", tmp_path / "run"), ("--resume", tmp_path / "run")):
        code, out, _ = fsg("train", *command)
        assert code == 130 and f"continue with: fsg train --resume {tmp_path / 'run'}" in out
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]


@pytest.mark.parametrize("error", [FsgError("no such data"), ValueError("no such data"), SystemExit("no such data")])
@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_a_run_that_fails_before_anything_was_trained_goes_again(tmp_path, existed, trained, error):
    out = tmp_path / "run"
    if existed:
        out.mkdir()
    with pytest.raises(type(error), match="no such data"), new_run(Config(), out) as folder:
        if trained:
            (folder / "checkpoint.pt").touch()
        raise error
    names = {path.name for path in out.iterdir()} if out.exists() else None
    assert names == ({"config.toml", "checkpoint.pt"} if trained else set() if existed else None)


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and [path] == list(tmp_path.iterdir())


def test_a_replaced_file_has_the_mode_of_a_new_one(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_crashed_writers_left_goes_after_a_day(tmp_path):
    old, young, other = (tmp_path / name for name in (".fsg-1-old.tmp", ".fsg-2-young.tmp", "mine.tmp"))
    room = tmp_path / ".fsg-export"
    room.mkdir()
    (room / "model.onnx").touch()
    for path in (old, young, other):
        path.touch()
    long_ago = time.time() - package.STALE_SECONDS - 1
    for path in (old, other, room):
        os.utime(path, (long_ago, long_ago))
    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
    assert {path.name for path in tmp_path.iterdir()} == {young.name, other.name, "file"}


def test_a_name_as_long_as_can_be_is_replaced(tmp_path):
    path = tmp_path / ("n" * 255)
    with replacing(path) as temporary:
        temporary.write_text("long")
    assert path.read_text() == "long"
