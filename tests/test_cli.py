"""The command line as its users meet it: the whole way from training to a measurement, and what goes wrong on it."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fsg import cli
from fsg.runtime.model.classes import read_confusion
from fsg.training.config import FORMAT, HEADINGS, Config, load_config, save_config

pytestmark = pytest.mark.xdist_group("command line")  # its tests share `project`


@pytest.fixture(scope="module")
def project(tmp_path_factory, digits_npz):
    """A folder with a short run and its exports under runs/short."""
    folder = tmp_path_factory.mktemp("project")
    train = ["train", "--dataset", f"npz:{digits_npz}", "--epochs", "2", "--out", "runs/short"]
    subprocess.run([sys.executable, "-m", "fsg", *train], cwd=folder, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["fsg", "export", "--format", "tflite", "--format", "onnx"])
        cli.main()
    assert not end.value.code
    return folder


@pytest.fixture(autouse=True)
def in_project(request, monkeypatch, tmp_path):
    folder = request.getfixturevalue("project") if "project" in request.fixturenames else tmp_path
    monkeypatch.chdir(folder)


def test_a_run_holds_what_is_promised(project):
    run = project / "runs" / "short"
    names = {path.name for path in run.iterdir()}
    tables = {"metrics.csv", "flips.csv", "confusion.csv"}
    assert names == tables | {"config.toml", "checkpoint.pt", "best.pt", "curves.png", "summary.json", "export"}
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["method"], summary["model"], summary["epochs"], summary["seed"]) == ("fsg", "resnet20", 2, 0)
    assert 0 <= summary["test_accuracy"] <= 1 and summary["train_loss"] > 0 and summary["seconds_per_step"] > 0
    assert summary["binary_parameters"] == 267264 and summary["float_parameters"] == 5210
    assert summary["hypernetwork_parameters"] > 0
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["test_accuracy"]) == summary["test_accuracy"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_report_holds_what_is_promised(project):
    report = json.loads((project / "runs/short/export/report.json").read_text())
    summary = json.loads((project / "runs/short/summary.json").read_text())
    assert report["hypernetwork_parameters_discarded"] == summary["hypernetwork_parameters"]
    tflite, onnx = report["artefacts"]
    assert tflite["ops"]["LceBconv2d"] == 18 and tflite["ops"]["CONV_2D"] == 3
    for artefact in (tflite, onnx):
        assert artefact["size_bytes"] == (project / artefact["path"]).stat().st_size <= report["float_size_bytes"] / 8
        verify = artefact["verify"]
        assert verify["samples"] == 260 and verify["top1_agreement"] >= 0.995 and verify["median_abs_diff"] <= 1e-4
        assert verify["torch_accuracy"] == pytest.approx(summary["test_accuracy"], abs=1e-6)


def test_bench_takes_the_newest_export_and_says_so(project, fsg):
    code, out, err = fsg("bench", "--threads", "1,2", "--runs", "3", "--json", "-")
    assert code == 0 and "taking the newest export, runs/short/export" in err
    records = json.loads(out)
    measured = [(r["artefact"].split("/")[-1], r["threads"], r["kind"], r["runs"]) for r in records]
    assert measured == [(f"model.{f}", t, "measured", 3) for f in ("tflite", "onnx") for t in (1, 2)]
    for record in records:
        latency = record["latency_ms"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
        assert record["peak_rss_bytes"] > 1e7 and record["accuracy"] >= 0

    code, out, _ = fsg("bench", "runs/short/export/model.tflite", "--runs", "3", "--json", "bench.json")
    assert code == 0 and "model.tflite" in out and "measured" in out
    assert json.loads((project / "bench.json").read_text())[0]["format"] == "tflite"


@pytest.mark.slow
def test_twins_are_measured_beside_the_binary_model(project, fsg):
    spec = load_config(project / "runs/short/config.toml").dataset
    arguments = ("--runs", "5", "--baseline", "float32,int8", "--accuracy", spec, "--json", "twins.json")
    code, out, err = fsg("bench", "runs/short/export/model.tflite", *arguments)
    assert code == 0, err
    binary, float32, int8 = json.loads((project / "twins.json").read_text())
    assert [record["variant"] for record in (binary, float32, int8)] == ["binary", "float32", "int8"]
    expected = json.loads(fsg("eval", "runs/short", "--json")[1])["accuracy"]
    assert float32["accuracy"] == pytest.approx(expected, abs=0.001)
    assert int8["accuracy"] == pytest.approx(expected, abs=0.05)
    for twin in (float32, int8):
        ratio = twin["latency_ms"]["p50"] / binary["latency_ms"]["p50"]
        assert twin["times_as_long"] == pytest.approx(ratio, rel=1e-3) and f"{ratio:.2f}x" in out
    assert len(json.loads((project / "runs/short/export/bench.json").read_text())) >= 3
    assert fsg("report", "runs/short")[0] == 0
    text = (project / "runs/short/report.html").read_text()
    assert "baseline-int8.tflite" in text and "<svg" in text and f"{expected:.2%}" in text
    (project / "runs/short/report.html").unlink()


def test_eval_agrees_between_run_and_artefacts(project, fsg):
    accuracies = []
    for target in ("runs/short", "runs/short/export/model.tflite", "runs/short/export/model.onnx"):
        code, out, _ = fsg("eval", target, "--json")
        result = json.loads(out)
        assert code == 0 and result["samples"] == 260
        accuracies.append(result["accuracy"])
    assert max(accuracies) - min(accuracies) <= 1 / 260
    assert len(result["confusion"]) == len(result["classes"]) == 10
    assert sum(one["images"] for one in result["classes"]) == 260
    code, out, err = fsg("eval", "--confusion", "tables/c.csv")
    assert read_confusion(Path("tables/c.csv"))[0].sum() == 260 and "recall" in out
    assert code == 0 and "on 260 images" in out and "taking the newest run, runs/short" in err


def test_a_folder_of_exports_that_is_no_run(project, fsg, refused):
    shutil.copytree("runs/short/export", "raw")
    assert "raw/model.tflite: accuracy" in fsg("eval", "raw")[1]
    assert "raw/model.tflite is no run: --best" in refused("eval", "raw", "--best")
    assert fsg("report", "raw")[0] == 0 and "LceBconv2d" in Path("raw/report.html").read_text()
    shutil.rmtree("raw")


def test_eval_of_other_data(project, fsg, refused, digits_npz):
    with np.load(digits_npz) as archive:
        data = dict(archive)
    del data["x_train"], data["y_train"]
    np.savez("reversed.npz", **data | {"class_names": data["class_names"][::-1], "y_test": 9 - data["y_test"]})
    expected = json.loads(fsg("eval", "runs/short", "--json")[1])["accuracy"]
    code, out, _ = fsg("eval", "runs/short/export/model.tflite", "--dataset", "npz:reversed.npz", "--json")
    assert code == 0 and json.loads(out)["accuracy"] == pytest.approx(expected, abs=1 / 260)
    assert "takes images of [3, 16, 16]" in refused("eval", "runs/short", "--dataset", "digits")


def test_summary_and_env(project, fsg):
    code, out, _ = fsg("summary", "resnet32")
    assert code == 0 and "layer1.4.conv2" in out and "464,896" not in out.splitlines()[0]
    code, out, _ = fsg("summary")
    assert code == 0 and "16x16x16" in out and "267,264" in out.splitlines()[-1]
    code, out, _ = fsg("env")
    assert code == 0 and "native kernels" in out and "torch" in out
    assert fsg("--version")[1].startswith("fsg 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--dataset", "cifra10"], "did you mean cifar10"),
        (["train", "--model", "resnet21"], "unknown model 'resnet21': choose one of resnet8, resnet20"),
        (["train", "--set", "epoch=3"], "unknown key 'epoch'; did you mean epochs?"),
        (["train", "--set", "learning_rate=1e-3"], "unknown key 'learning_rate'; did you mean lr?"),
        (["train", "--learning-rate", "1e-3"], "No such option: --learning-rate; did you mean --lr?"),
        (["train", "--num-workers", "2"], "did you mean --threads?"),
        (["train", "--set", "epochs"], "'epochs' is no setting; write key=value"),
        (["train", "--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["train", "--preset", "best"], "'best' is not one of 'paper', 'edge'"),
        (["train", "--teacher", "file"], "not a state dict"),
        (["train", "--method", "magic"], "'magic' is not one of 'fsg', 'ste'"),
        (["train", "--dataset", "folder:nowhere"], "nowhere: no such folder"),
        (["train", "--dataset", "folder:empty"], "empty/train: no such folder"),
        (["train", "--dataset", "npz:nothing.npz"], "nothing.npz: cannot be read"),
        (["train", "--out", "file/run"], "cannot create the folder file/run"),
        (["train", "--epochs", "0"], "epochs is 0: it must be at least 1"),
        (["train", "--lr", "nan"], "lr is nan: it must be above 0"),
        (["train", "--alpha", "1.5"], "alpha is 1.5: it must be at most 1"),
        (["train", "--init", "file"], "not a state dict"),
        (["train", "--resume", "empty"], "empty is not a run"),
        (["export"], "no run under ./runs"),
        (["export", "--format", "coreml"], "'coreml' is not one of"),
        (["export", "--batch", "0"], "'0' is neither a number of images from 1 to 1000 nor free"),
        (["export", "--batch", "1001"], "'1001' is neither a number of images from 1 to 1000 nor free"),
        (["export", "--batch", "9" * 5000], "is neither a number of images from 1 to 1000 nor free"),
        (["export", "--batch", "all"], "'all' is neither a number of images from 1 to 1000 nor free"),
        (["bench"], "no export under ./runs"),
        (["bench", "file"], "file: not a model file"),
        (["bench", "file.tflite"], "file.tflite: no such file"),
        (["bench", "--threads", "two"], "--threads two"),
        (["eval", "missing.onnx"], "missing.onnx: no such file"),
        (["summary", "resnet21"], "neither a run folder nor a model"),
        (["trian"], "No such command 'trian'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(refused, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    assert message in refused(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "runs") == ["empty", "file"]
    assert not list(tmp_path.glob("runs/*"))


@pytest.fixture
def settings(fsg, monkeypatch):
    """Runs `fsg train` but for the training; returns the settings it would train with."""
    seen = []
    monkeypatch.setattr("fsg.commands.train.run_training", lambda config, folder: seen.append(config))

    def run(*arguments):
        code, _, err = fsg("train", *arguments)
        assert code == 0, err
        return seen[-1]

    return run


def test_what_is_given_more_directly_wins(settings, tmp_path):
    (tmp_path / "my.toml").write_text('lr = 0.5\nbatch_size = 7\nschedule = "constant"\ninit = "w.pth"\n')
    assert settings() == Config()
    assert settings("--preset", "paper").lr == 1e-3
    config = settings(
        *("--preset", "paper", "--config", "my.toml", "--set", "batch_size=8", "--set", "seed=3"),
        *("--schedule", "cosine", "--out", "one"),
    )
    assert (config.variant, config.epochs, config.lr) == ("reference", 100, 0.5)
    assert (config.batch_size, config.seed, config.schedule) == (8, 3, "cosine")
    assert config.init == str(tmp_path / "w.pth")
    assert load_config(tmp_path / "one/config.toml") == config
    assert settings("--config", "one/config.toml", "--out", "two") == config
    assert settings("--set", "lr=0.5", "--lr", "0.008", "--out", "three").lr == 0.008  # though it is the default


def test_short_forms(settings):
    config = settings("--no-history", "--no-slow", "--no-embedding", "--amp")
    assert (config.history, config.slow, config.embedding, config.precision) == (0, False, False, "bf16")


def test_what_a_resumed_run_may_change(settings, tmp_path):
    (tmp_path / "run").mkdir()
    save_config(Config(), tmp_path / "run/config.toml")
    config = settings("--resume", "run", "--epochs", "40", "--threads", "1", "--data-dir", "here")
    assert config == Config(epochs=40, threads=1, data_dir=str(tmp_path / "here"))
    assert load_config(tmp_path / "run/config.toml") == Config()  # training writes it when it begins


def test_help_shows_every_setting_under_its_heading(fsg):
    _, out, _ = fsg("train", "--help")
    sections = dict(part.split(":\n", 1) for part in out.split("\n\n") if ":\n" in part)
    assert list(sections) == ["Options", *HEADINGS.values()]
    heading = ""
    for field in fields(Config):
        heading = HEADINGS.get(field.name, heading)
        assert f"  --{field.name.replace('_', '-')} " in sections[heading]
    assert "--resume" in sections["Options"] and "--config" in sections["Options"]


def test_a_run_that_stops_says_how_to_go_on(fsg, tiny_npz, tmp_path):
    arguments = ["--dataset", f"npz:{tiny_npz}", "--method", "ste", "--max-minutes", "1e-6", "--batch-size", "16"]
    code, out, _ = fsg("train", *arguments, "--out", tmp_path / "run")
    assert code == 0
    assert "stopped after epoch 1 of 12: the next would end after 1e-06 minutes; continue with: " in out
    assert f"fsg train --resume {tmp_path / 'run'}\n" in out
    assert not (tmp_path / "run/summary.json").exists()


def test_a_loss_that_is_not_finite_ends_the_run(refused, tiny_npz, tmp_path):
    settings = ["--dataset", f"npz:{tiny_npz}", "--method", "ste", "--batch-size", "16", "--lr", "1e30"]
    assert "the loss became nan in epoch 1" in refused("train", *settings, "--out", "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_truncated_files(project, refused, tmp_path, keep):
    for name in ("checkpoint.pt", "export/model.tflite", "export/model.onnx"):
        broken = tmp_path / "broken"
        shutil.copytree("runs/short", broken)
        content = (broken / name).read_bytes()
        (broken / name).write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
        if name == "checkpoint.pt":
            for command in ("export", "eval", "summary"):
                assert "checkpoint.pt" in refused(command, broken)
            assert "checkpoint.pt" in refused("train", "--resume", broken)
        else:
            for command in ("bench", "eval"):
                assert str(broken / name) in refused(command, broken / name)
        shutil.rmtree(broken)


def test_runs_of_another_version(project, refused, tmp_path):
    other = tmp_path / "other"
    shutil.copytree("runs/short", other)
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace(f"format = {FORMAT}", "format = 99"))
    for arguments in (["export", other], ["eval", other], ["summary", other], ["train", "--resume", other]):
        assert f"has run format 99, this fsg reads format {FORMAT}" in refused(*arguments)
    (other / "config.toml").write_text(config + "colour = 3\n")
    assert "unknown key 'colour'" in refused("export", other)
    (other / "config.toml").write_text(config.replace("epochs = 2", "epochs = 'two'"))
    assert "epochs is 'two'; it must be of type int" in refused("export", other)
    (other / "config.toml").write_text(config[:50])
    assert "config.toml" in refused("export", other)
    assert "config.toml" in refused("report", other)

    import torch

    (other / "config.toml").write_text(config)
    content = torch.load(other / "checkpoint.pt", weights_only=True)
    torch.save({**content, "format": 99}, other / "checkpoint.pt")
    assert "has run format 99" in refused("export", other)


def test_an_existing_run_is_neither_overwritten_nor_changed(project, refused):
    before = {path: path.read_bytes() for path in (project / "runs/short").rglob("*") if path.is_file()}
    assert "exists: continue that run with --resume" in refused("train", "--out", "runs/short")
    assert "--epochs 1 contradicts" in refused("train", "--resume", "runs/short", "--epochs", "1")
    assert "--seed 5 contradicts" in refused("train", "--resume", "runs/short", "--set", "seed=5")
    assert "--optimizer sgd contradicts" in refused("train", "--resume", "runs/short", "--optimizer", "sgd")
    assert "leave --out away" in refused("train", "--resume", "runs/short", "--out", "runs/new")
    assert before == {path: path.read_bytes() for path in (project / "runs/short").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(digits_npz, tmp_path_factory):
    """The settings of a run by a method, and the folder of that run when nothing interrupts it."""
    folder = tmp_path_factory.mktemp("uninterrupted")

    @cache
    def run(method):
        settings = ["--dataset", f"npz:{digits_npz}", "--epochs", "3", "--threads", "1", "--method", method]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "argv", ["fsg", "train", *settings, "--out", str(folder / method)])
            cli.main()
        assert not end.value.code
        return settings, folder / method

    return run


@pytest.mark.parametrize(
    ("method", "stop"),
    [
        ("ste", signal.SIGINT),
        pytest.param("ste", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("fsg", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("fsg", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(fsg, uninterrupted, tmp_path, method, stop):
    settings, whole_folder = uninterrupted(method)
    command = [sys.executable, "-m", "fsg", "train", *settings, "--out", "parts"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "parts/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # into the second epoch
    process.send_signal(stop)
    assert process.wait(60) == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert not (tmp_path / "parts/summary.json").exists()
    code, _, err = fsg("train", "--resume", "parts")
    assert code == 0, err
    tables = []
    for folder in (whole_folder, tmp_path / "parts"):
        with open(folder / "metrics.csv") as file:
            tables.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]
    whole, parts = (json.loads((folder / "summary.json").read_text()) for folder in (whole_folder, tmp_path / "parts"))
    times = {"seconds": 0, "seconds_per_step": 0}
    assert parts | times == whole | times
