"""`fsg compare` and `fsg bench-train` as their users meet them."""

import json
import signal
import subprocess
import sys
import time

import pytest

from fsg.training.experiments import sweep


@pytest.fixture(autouse=True)
def in_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.05)


@pytest.fixture
def settings(tiny_npz):
    return ["--dataset", f"npz:{tiny_npz}", "--batch-size", "16", "--threads", "1"]


def test_compare_trains_reports_and_collects(fsg, refused, settings, tmp_path):
    methods = "ste:lr=1e30,ste"  # a run that fails does not keep the others back
    both = ["--methods", methods, "--seeds", "4", "--epochs", "1", "--out", "out", *settings, "--jobs", "2"]
    line = refused("compare", *both)
    assert "1 of 2 runs are not finished; ste:lr=1e30, seed 4: the loss became" in line
    assert (tmp_path / "out/ste-seed4/summary.json").exists() and not (tmp_path / "out/compare.md").exists()

    command = ["compare", "--methods", "ste,ste:lr=1e-3", "--seeds", "4", "--epochs", "1", "--out", "out", *settings]
    code, out, _ = fsg(*command)
    assert code == 0 and "run 1 of 2: ste, seed 4: finished before" in out
    assert "run 2 of 2: ste:lr=1e-3, seed 4: into" in out and "report in out/compare.md" in out
    runs = ["out/ste-seed4", "out/ste_lr=1e-3-seed4"]
    for run, lr in zip(runs, (8e-3, 1e-3), strict=True):
        config = (tmp_path / run / "config.toml").read_text()
        assert f"lr = {lr}\n" in config and "seed = 4\n" in config and "epochs = 1\n" in config
        assert "test accuracy" in (tmp_path / run / "train.log").read_text()
    report = (tmp_path / "out/compare.md").read_text()
    assert "| ste:lr=1e-3 | 1 |" in report and "nothing can be concluded" in report

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*")}
    assert fsg(*command)[1].count("finished before") == 2
    assert "was trained with epochs = 1, not 2" in refused(*command, "--epochs", "2")
    code, out, _ = fsg("compare", *runs, "--out", "collected")
    assert code == 0 and "ste:lr=0.001 against ste" in out and "finished before" not in out
    assert (tmp_path / "collected/compare.png").read_bytes().startswith(b"\x89PNG")
    assert "--seeds is for new runs" in refused("compare", *runs, "--seeds", "1")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*")}


def test_nothing_is_trained_before_people_know_what(refused, fsg, tmp_path, monkeypatch):
    planned = "6 trainings (ste, fsg; seeds 0, 1, 2) of resnet20 on digits, 12 epochs each, into runs/compare-resnet20-"
    for settings in ([], ["--lr", "1e-3"], ["--seeds", "0,1,2"]):
        line = refused("compare", *settings)
        assert planned in line and "choose --methods or --dataset, or say --yes" in line
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sweep, "run_all", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    for settings in (["--yes"], ["--dataset", "digits"], ["--methods", "ste,fsg"], ["--set", "dataset=digits"]):
        code, out, _ = fsg("compare", *settings)
        assert code == 130 and planned in out


@pytest.mark.slow
def test_an_interrupted_comparison_continues(fsg, refused, digits_npz, tmp_path):
    settings = ["--dataset", f"npz:{digits_npz}", "--batch-size", "128", "--threads", "1"]
    command = ["compare", "--methods", "ste", "--seeds", "0,1", "--epochs", "3", "--out", "out", *settings]
    process = subprocess.Popen([sys.executable, "-m", "fsg", *command], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "out/ste-seed1/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "another fsg compare is at work in out" in refused(*command)
    process.send_signal(signal.SIGINT)
    assert "the same command continues" in process.communicate(timeout=60)[0] and process.returncode == 130
    finished = tmp_path / "out/ste-seed0/summary.json"
    written = finished.stat().st_mtime_ns
    assert not (tmp_path / "out/ste-seed1/summary.json").exists() and not (tmp_path / "out/compare.md").exists()

    code, _, err = fsg("train", "--method", "ste", "--seed", "1", "--epochs", "3", *settings, "--out", "whole")
    assert code == 0, err
    code, again, err = fsg(*command)
    assert code == 0, err
    assert again.count("finished before") == 1 and finished.stat().st_mtime_ns == written
    resumed, uninterrupted = (
        json.loads((tmp_path / run / "summary.json").read_text()) for run in ("out/ste-seed1", "whole")
    )
    assert resumed["train_loss"] == uninterrupted["train_loss"]
    assert resumed["test_accuracy"] == uninterrupted["test_accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "ste,magic"], "unknown method 'magic': choose one of fsg, ste"),
        (["--methods", "ste:lr=fast"], "method ste:lr=fast: lr is 'fast'; it must be of type float"),
        (["--methods", "ste:lr=-1"], "lr is -1.0: it must be above 0"),
        (["--dataset", "cifra10"], "did you mean cifar10"),
        (["--preset", "magic"], "'magic' is not"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "bench-train"])
def test_mistyped_settings_are_refused_before_anything_runs(refused, tmp_path, command, arguments, message):
    assert message in refused(command, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0,zero"], "seeds 0,zero: give different whole numbers"),
        (["nowhere"], "nowhere is not a run"),
        (["--seed", "1"], "No such option"),
    ],
)
def test_bad_arguments_of_compare(refused, tmp_path, arguments, message):
    assert message in refused("compare", *arguments)
    assert not list(tmp_path.iterdir())


def test_bench_train_prints_and_writes_what_a_step_costs(fsg, tmp_path):
    sizes = ["--batch-size", "4", "--threads", "1", "--history", "1", "--rounds", "2", "--steps", "1"]
    code, out, _ = fsg("bench-train", "--methods", "ste,fsg:alpha=0.5", *sizes, "--json", "cost.json")
    assert code == 0 and "resnet20, batch 4, 1 threads" in out and "synthetic images" in out and "fsg:alpha=0.5" in out
    ste, fsg_ = json.loads((tmp_path / "cost.json").read_text())
    assert ste["label"] == "ste" and fsg_["settings"]["alpha"] == 0.5 and fsg_["settings"]["batch_size"] == 4
    assert ste["ratio"] == {"q25": 1, "median": 1, "q75": 1} and fsg_["ratio"]["median"] > 0
    times = fsg_["seconds_per_step"]
    assert 0 < times["q25"] <= times["median"] <= times["q75"]
