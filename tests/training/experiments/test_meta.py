"""Meta-training: its search descends, every file continues it, and what it writes is used by a training."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.experiments import trials
from fsg.training.experiments.evolve import Descent, perturbation, utilities
from fsg.training.experiments.meta import CHECK_SEED, MetaTraining, Plan, meta_train
from fsg.training.experiments.short import ShortTrainer, Task, fitness
from fsg.training.experiments.trials import Book, Trial, relative
from fsg.training.methods.hyperfile import Hypernetwork, read_hypernetwork, save_hypernetwork

QUIET = Console(quiet=True)


def test_a_descent_finds_the_lowest_point_of_a_noisy_function():
    rng = np.random.default_rng(0)
    lowest = rng.standard_normal(20) / 3
    descent = Descent(np.zeros(20), sigma=0.1, step=0.1)

    def value(point):
        return 1 + ((point - lowest) ** 2).sum() + 0.02 * rng.standard_normal()

    for generation in range(150):
        es = [perturbation(1, generation, pair, 20) for pair in range(8)]
        sides = [descent.sides(e) for e in es]
        descent.learn(es, [value(plus) for plus, _ in sides], [value(minus) for _, minus in sides])
    assert ((descent.point - lowest) ** 2).sum() < 0.1 * (lowest**2).sum()


def test_utilities_are_relative_and_know_who_went_astray():
    better = utilities([1.0, 20.0, 3.0], [1.1, 22.0, 3.0])
    assert better[0] == pytest.approx(better[1]) and better[0] > 0 and better[2] == 0
    np.testing.assert_allclose(utilities([1.1, 22.0, 3.0], [1.0, 20.0, 3.0]), -better)
    assert utilities([math.inf, 1.0, math.inf], [1.0, math.inf, math.inf]).tolist() == [-1, 1, 0]
    assert np.abs(utilities([1.0] * 9 + [1.0], [1.01] * 9 + [50.0])).max() <= 1


def test_perturbations_are_independent_and_repeat():
    one = perturbation(0, 1, 2, 500)
    assert np.array_equal(one, perturbation(0, 1, 2, 500)) and abs(one.mean()) < 0.2 and 0.8 < one.std() < 1.2
    for other in (perturbation(1, 1, 2, 500), perturbation(0, 2, 2, 500), perturbation(0, 1, 3, 500)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


def test_fitness_by_hand():
    assert fitness([float(i) for i in range(15)]) == np.mean([12, 13, 14]) + 0.5 * np.mean([5, 6, 7, 8, 9])
    assert fitness([1.0] * 7) == 1.5 and fitness([2.0]) == 3.0
    assert fitness([1.0, math.nan, 1.0, math.nan, math.nan]) == math.inf


def plan(**changes):
    common = Config(batch_size=16, image_size=8, lr=1e-2, seed=3)
    lists = {"datasets": ("digits",), "models": ("resnet8",), "bits": (1, 32), "steps": (4, 6)}
    return Plan(common, **{**lists, "generations": 6, "pairs": 3, "checks": 4, "check_every": 2, **changes})


def test_tasks_are_the_same_for_both_sides_and_other_than_the_checks(tmp_path):
    made = plan()
    pairs = [Trial(g, n, side) for g in range(20) for n in range(3) for side in (1, -1)]
    tasks = {trial: made.task(trial, tmp_path / "a", 1) for trial in pairs}
    assert all(task == tasks[Trial(g, n, -s)] for (g, n, s), task in tasks.items())
    drawn = {(task.config.activation_bits, task.steps) for task in tasks.values()}
    assert drawn == {(1, 4), (1, 6), (32, 4), (32, 6)}
    one_bit = [task for task in tasks.values() if task.config.activation_bits == 1]
    assert {round(task.config.lr, 5) for task in one_bit} == {7e-3, 1e-2, 1.4e-2}
    assert len({task.config.seed for task in tasks.values()}) == 60
    checks = [made.task(Trial(2, number, 0), tmp_path / "a", 1) for number in range(4)]
    assert {(task.config.activation_bits, task.steps) for task in checks} == drawn
    assert min(task.config.seed for task in checks) >= CHECK_SEED > max(task.config.seed for task in tasks.values())
    assert checks == [made.task(Trial(0, number, -2), tmp_path / "a", 1) for number in range(4)]


@pytest.fixture
def judged(monkeypatch):
    """Trainings take no time: their losses are low where the hypernetwork is near a certain one."""
    calls = []

    class Judge:
        def __call__(self, task):
            calls.append(task)
            weights = np.array(read_hypernetwork(Path(task.config.hypernetwork)).weights)
            wanted = np.zeros_like(weights)
            wanted[0] = 0.3
            return [1 + float(((weights - wanted) ** 2).sum()) + task.config.seed / 1e8] * 9

    monkeypatch.setattr(trials, "ShortTrainer", Judge)
    return calls


def test_it_learns_and_writes_what_it_learnt(judged, tmp_path):
    made = {"command": "test"}
    change = meta_train(plan(generations=60, pairs=8), tmp_path / "meta", QUIET, jobs=1, made=made)
    assert change.mean < -0.1 and change.error < 0.01 and change.count == 4
    net = read_hypernetwork(tmp_path / "meta/hypernetwork.json")
    assert np.mean(net.weights[0]) > 0.05 and net.made["command"] == "test"
    assert net.made["generations"] == 60 and net.made["trainings"] == len(judged) == 60 * 16 + 31 * 4
    assert (tmp_path / "meta/progress.png").read_bytes().startswith(b"\x89PNG")


def test_it_continues_from_any_line_of_its_trials(judged, tmp_path):
    whole = meta_train(plan(), tmp_path / "whole", QUIET, jobs=1, made={})
    text = (tmp_path / "whole/trials.csv").read_text()
    everything = len(judged)
    meta_train(plan(), tmp_path / "whole", QUIET, jobs=1, made={})
    assert len(judged) == everything
    cut = tmp_path / "cut"
    cut.mkdir()
    for size in (0, 40, len(text) // 3, len(text) // 2 + 7, len(text) - 1):
        (cut / "trials.csv").write_text(text[:size])
        before = len(judged)
        assert meta_train(plan(), cut, QUIET, jobs=1, made={}) == whole
        assert len(judged) - before == everything - max(0, text[:size].count("\n") - 1)
        assert sorted((cut / "trials.csv").read_text().splitlines()) == sorted(text.splitlines())
        assert (cut / "hypernetwork.json").read_text() == (tmp_path / "whole/hypernetwork.json").read_text()
    more = meta_train(plan(generations=8), cut, QUIET, jobs=1, made={})
    assert more != whole
    with pytest.raises(FsgError, match="another pairs"):
        meta_train(plan(pairs=4), cut, QUIET, jobs=1, made={})
    (cut / "trials.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FsgError, match="no table of trials"):
        meta_train(plan(), cut, QUIET, jobs=1, made={})


def test_checks_without_a_result_count_for_nothing():
    assert relative([1.1, math.inf, 2.0], [1.0, 1.0, math.inf]) == [pytest.approx(0.1)]
    work = MetaTraining(plan(generations=1, check_every=1, checks=2))
    pairs = {Trial(0, number, side) for number in range(3) for side in (1, -1)}
    assert set(work.trials()) == {Trial(0, number, -2) for number in range(2)} | pairs
    assert not work.advance(dict.fromkeys(work.trials(), math.inf))
    assert work.advance(dict.fromkeys([*work.trials(), Trial(0, 0, -2), Trial(0, 1, -2)], math.inf))
    assert work.checks[-1][1].mean == 0 and np.isfinite(work.descent.point).all()


def test_a_short_training_repeats_and_depends_on_its_hypernetwork(tmp_path):
    threads = torch.get_num_threads()
    save_hypernetwork(Hypernetwork.of({"step": {"constant": -1.0}}), tmp_path / "slow.json")
    config = Config(image_size=8, batch_size=16, model="resnet8", threads=1, hypernetwork="none")
    train = ShortTrainer()
    losses = train(Task(config, 12))
    assert len(losses) == 12 and losses == train(Task(config, 12)) and losses[:6] != train(Task(config, 6))
    other = train(Task(replace(config, hypernetwork=str(tmp_path / "slow.json")), 12))
    assert other[0] == losses[0] and other[1] != losses[1]  # the first step only produces gradients
    torch.set_num_threads(threads)


TINY = ["--datasets", "digits", "--image-size", "8", "--batch-size", "16", "--pairs", "2", "--checks", "2"]


@pytest.mark.slow
def test_the_fitness_of_a_tiny_network_falls_and_a_kill_costs_nothing(fsg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_hypernetwork(Hypernetwork.of({"step": {"constant": -0.9}}), tmp_path / "start.json")  # much too timid
    learn = ["meta-train", *TINY, "--pairs", "5", "--checks", "4", "--check-every", "2", "--steps", "30"]
    learn += [
        "--lr",
        "4e-3",
        "--sigma",
        "0.25",
        "--rate",
        "0.3",
        "--start",
        "start.json",
        "--jobs",
        "2",
        "--out",
        "meta",
    ]
    command = [sys.executable, "-m", "fsg", *learn, "--generations", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    written = tmp_path / "meta/trials.csv"
    while not (written.exists() and written.read_text().count("\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = written.read_text().splitlines()
    code, out, err = fsg(*learn, "--generations", "4")
    assert code == 0, err
    assert written.read_text().splitlines()[: len(before) - 1] == before[:-1]
    change = float(out.rpartition("the fitness changed by ")[2].split()[0])
    assert change < -1.0
    code, out, err = fsg("train", "--dataset", "digits", "--epochs", "1", "--hypernetwork", "meta/hypernetwork.json")
    assert code == 0, err
    assert json.loads((tmp_path / "meta/meta.json").read_text())["pairs"] == 5


@pytest.mark.slow
def test_processes_of_torchrun_share_the_trainings(fsg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = ["meta-train", *TINY, "--steps", "3", "--generations", "2", "--threads", "1"]
    code, _, err = fsg(*learn, "--out", "alone")
    assert code == 0, err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, "-m", "fsg", *learn, "--out", "two"], check=True, timeout=300)
    for name in ("alone", "two"):
        lines = (tmp_path / name / "trials.csv").read_text().splitlines()
        assert len(lines) == 1 + 2 * 4 + 4
    alone, two = (read_hypernetwork(tmp_path / name / "hypernetwork.json") for name in ("alone", "two"))
    assert alone.weights == two.weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "2"], "--bits 2: give 1, 32 or 1,32"),
        (["--datasets", "digit"], "did you mean digits"),
        (["--models", "resnet9"], "unknown model 'resnet9'"),
        (["--set", "method=ste"], "method is drawn, or has no meaning"),
        (["--start", "nothing.json"], "hypernetwork nothing.json: No such file"),
        (["--steps", "0"], "--steps 0: give numbers of at least 1"),
    ],
)
def test_bad_arguments_of_meta_train(refused, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("meta-train", *arguments)
    assert not list(tmp_path.glob("**/trials.csv"))


def test_a_line_of_a_book_that_a_kill_cut_short_is_dropped(tmp_path):
    path = tmp_path / "trials.csv"
    book, task = Book(path), Task(Config(), 5)
    for number in range(3):
        book.add(Trial(0, number, 1), number + 0.1, task)
    book.add(Trial(0, 0, 1), 7.0, task)
    path.write_text(path.read_text()[:-9])
    again = Book(path)
    assert again.known == {Trial(0, 0, 1): 0.1, Trial(0, 1, 1): 1.1}
    again.add(Trial(0, 2, 1), 5.0, task)
    assert Book(path).known[Trial(0, 2, 1)] == 5.0
