"""Comparisons that several processes work on: every run is trained by one of them."""

import io
import os
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.experiments import claims, sweep
from fsg.training.experiments.claims import CLAIM, Claims, holder
from fsg.training.experiments.sweep import plan_runs, run_all, visible_gpus
from fsg.training.folder import only_one, run_lock

CHILD = """
import json, os, sys, time
folder = sys.argv[1]
with open(f"{folder}/by", "a") as file:
    print(os.getppid(), os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
time.sleep(0.2)
with open(f"{folder}/written", "w") as file:
    file.write("epoch,seconds,train_loss,test_accuracy\\n1,1.0,0.5,0.5\\n")
os.rename(f"{folder}/written", f"{folder}/metrics.csv")
with open(f"{folder}/written", "w") as file:
    json.dump({"seconds_per_step": 1.0}, file)
os.rename(f"{folder}/written", f"{folder}/summary.json")
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(sweep, "CHILD", [sys.executable, "-c", CHILD])
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.05)


def planned(folder, seeds):
    return plan_runs({"ste": Config(method="ste", epochs=1)}, range(seeds), folder)


def test_of_many_processes_one_has_each_run(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom fsg.training.experiments.claims import Claims\n"
        "mine = Claims()\nwhile time.time() < float(sys.argv[2]): pass\n"
        "print(*[n for n in range(60) if mine.take(Path(sys.argv[1], str(n)))])"
    )
    start = str(time.time() + 2)
    command = [sys.executable, "-c", program, str(tmp_path), start]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    taken = [int(word) for process in processes for word in process.communicate()[0].split()]
    assert sorted(taken) == list(range(60))
    assert {path.name for path in tmp_path.glob("*/*")} == {CLAIM}


def test_a_claim_that_nobody_touches_is_taken_over(tmp_path, monkeypatch):
    one, other = Claims(), Claims()
    assert one.take(tmp_path) and not other.take(tmp_path) and f"process {os.getpid()}" in holder(tmp_path)
    path = tmp_path / CLAIM
    old = time.time() - claims.STALE_S - 10
    os.utime(path, (old, old))
    monkeypatch.setattr(claims, "TOUCHED_S", -1.0)
    one.refresh()
    assert not other.take(tmp_path)
    os.utime(path, (old, old))
    assert holder(tmp_path) is None and other.take(tmp_path) and not one.take(tmp_path)
    assert one.refresh() == [tmp_path] and one.refresh() == other.refresh() == []
    one.release(tmp_path)  # it has lost it
    assert holder(tmp_path)
    other.release(tmp_path)
    assert not list(tmp_path.iterdir()) and one.take(tmp_path)


def test_a_claim_of_a_process_that_has_ended_is_taken_over_at_once(tmp_path):
    program = "import sys\nfrom pathlib import Path\nfrom fsg.training.experiments.claims import Claims\n"
    program += "assert Claims().take(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    with run_lock(tmp_path):  # the training that it has started goes on
        assert not Claims().take(tmp_path) and holder(tmp_path)
    text = (tmp_path / CLAIM).read_text()
    (tmp_path / CLAIM).write_text(text.replace(text.rpartition(", ")[2], "0123456789abcdef-01\n"))
    assert not Claims().take(tmp_path) and holder(tmp_path)  # of another machine
    (tmp_path / CLAIM).write_text(text)
    assert holder(tmp_path) is None and Claims().take(tmp_path) and holder(tmp_path)


def test_a_claim_in_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FsgError, match="choose another --out"):
        Claims().take(tmp_path / "file")


def test_two_comparisons_share_the_runs(tmp_path):
    texts = [io.StringIO(), io.StringIO()]

    def compare(text):
        run_all(planned(tmp_path, 6), tmp_path, Console(file=text, width=200), share=True)

    threads = [threading.Thread(target=compare, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    into = [text.getvalue().count(": into ") for text in texts]
    assert sum(into) == 6 and min(into) >= 1
    assert all(run.finished and len((run.folder / "by").read_text().splitlines()) == 1 for run in planned(tmp_path, 6))
    assert not list(tmp_path.glob(f"*/{CLAIM}*"))


def test_who_does_not_share_keeps_out(tmp_path):
    runs = planned(tmp_path, 2)
    Claims().take(runs[1].folder)
    with pytest.raises(FsgError, match=rf"process {os.getpid()}, is at work in .*: take part with --share"):
        run_all(runs, tmp_path, Console(file=io.StringIO()))
    with only_one(tmp_path, "") as _, pytest.raises(FsgError, match=r"another fsg compare is at work .*; --share is"):
        run_all(planned(tmp_path, 1), tmp_path, Console(file=io.StringIO()), share=True)


def test_a_run_that_others_have_taken_over_is_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "CHILD", [sys.executable, "-c", CHILD.replace("0.2", "60")])
    monkeypatch.setattr(claims, "TOUCHED_S", -1.0)
    (run,), text = planned(tmp_path, 1), io.StringIO()

    def others():
        while not (run.folder / "by").exists():
            time.sleep(0.02)
        (run.folder / CLAIM).write_text("desk, process 1, 12\n")
        while "others have taken it over" not in text.getvalue():
            time.sleep(0.02)
        (run.folder / "summary.json").write_text('{"seconds_per_step": 1.0}')

    thread = threading.Thread(target=others, daemon=True)
    thread.start()
    run_all([run], tmp_path, Console(file=text, width=200), share=True)
    assert "finished before" in text.getvalue() and (run.folder / CLAIM).read_text().startswith("desk")
    assert not (run.folder / "metrics.csv").exists()


def test_a_run_that_cannot_be_started_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "CHILD", ["/nowhere/python"])
    with pytest.raises(FileNotFoundError):
        run_all(planned(tmp_path, 2), tmp_path, Console(file=io.StringIO()), share=True)
    assert not list(tmp_path.glob(f"*/{CLAIM}*"))


def test_what_others_train_meanwhile_is_no_other_run(tmp_path, monkeypatch):
    """Nor is a run trained again that others finish between two looks at it."""
    runs, take = planned(tmp_path, 1), Claims.take

    def late(self, folder):
        folder.mkdir()
        sweep.save_config(settings, folder / "config.toml")
        (folder / "summary.json").write_text('{"seconds_per_step": 1.0}')
        return take(self, folder)

    monkeypatch.setattr(Claims, "take", late)
    settings = runs[0].config
    run_all(runs, tmp_path, Console(file=io.StringIO()), share=True)
    assert not (runs[0].folder / "by").exists() and not (runs[0].folder / CLAIM).exists()
    runs, settings = planned(tmp_path / "other", 1), Config(method="ste", epochs=1, lr=0.5)
    with pytest.raises(FsgError, match=r"was trained with lr = 0\.5"):
        run_all(runs, tmp_path / "other", Console(file=io.StringIO()), share=True)


def test_each_of_several_runs_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    run_all(planned(tmp_path, 4), tmp_path, Console(file=io.StringIO()), jobs=2)
    used = [(run.folder / "by").read_text().split()[1] for run in planned(tmp_path, 4)]
    assert sorted(used[:2]) == ["3", "5"] and set(used) == {"3", "5"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []
