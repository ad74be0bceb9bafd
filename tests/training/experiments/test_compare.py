"""The statistics of comparisons, their files, and the plan of their runs; and what fsg bench-train measures."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from fsg import FsgError
from fsg.training.config import Config, save_config
from fsg.training.experiments.bench_step import measure_steps, quartiles
from fsg.training.experiments.compare import csv_text, markdown, paired, reading, results, write_comparison
from fsg.training.experiments.plots import spread
from fsg.training.experiments.results import (
    ACCURACY,
    FINAL_LOSS,
    Estimate,
    FinishedRun,
    RunGroup,
    best_marks,
    curve,
    group_runs,
    measures,
    read_run,
)
from fsg.training.experiments.sweep import PlannedRun, parse_seeds, plan_runs, seconds_left
from fsg.training.options import parse_methods


def make_run(folder, losses, accuracies, *, pace=10.0, **settings):
    """A run folder as training leaves it, with these training losses and test accuracies of its epochs."""
    config = Config(**{"epochs": len(losses), **settings})
    folder.mkdir()
    save_config(config, folder / "config.toml")
    with open(folder / "metrics.csv", "w") as file:
        file.write("epoch,train_loss,test_accuracy,seconds\n")
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1):
            file.write(f"{epoch},{loss},{accuracy},{epoch * pace}\n")
    summary = {"seconds_per_step": pace / 20, "hypernetwork_parameters": 7, "machine": "a board", "threads": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def make_group(label, finals):
    """Runs of one epoch by seed, without folders: (training loss, test accuracy)."""
    runs = {}
    for seed, (loss, accuracy) in finals.items():
        row = {"epoch": 1.0, "train_loss": loss, "test_accuracy": accuracy, "seconds": 1.0}
        runs[seed] = FinishedRun(None, Config(epochs=1, seed=seed), [row], {"seconds_per_step": 0.1})
    return RunGroup(label, runs)


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_an_estimate_agrees_with_scipy(count):
    rng = np.random.default_rng(count)
    seen = set()
    for shift in np.linspace(0, 4, 25):
        values = rng.normal(shift, 1, count)
        estimate = Estimate.of(list(values))
        assert estimate.mean == pytest.approx(values.mean())
        assert estimate.error == pytest.approx(stats.sem(values))
        assert estimate.significant == (stats.ttest_1samp(values, 0).pvalue < 0.05)
        seen.add((estimate.indistinct, estimate.significant))
    assert (True, True) not in seen and len(seen) >= 2


def test_one_value_has_no_error():
    estimate = Estimate.of([0.25])
    assert (estimate.mean, estimate.error, estimate.indistinct, estimate.significant) == (0.25, None, True, False)
    assert estimate.text(3) == "0.250" and Estimate.of([1, 3]).text(1) == "2.0 ± 1.0"


def test_differences_are_paired_by_seed():
    first = make_group("ste", {0: (1.0, 0.50), 1: (2.0, 0.60), 2: (3.0, 0.70)})
    other = make_group("fsg", {1: (1.9, 0.61), 2: (2.7, 0.74), 5: (9.0, 0.10)})
    difference = other.difference(first, FINAL_LOSS)
    assert difference.count == 2 and difference.mean == pytest.approx(-0.2) and difference.error == pytest.approx(0.1)
    assert other.difference(make_group("far", {7: (1, 1)}), FINAL_LOSS) is None
    assert ACCURACY.difference_text(other.difference(first, ACCURACY)) == "+2.50 ± 1.50 points"


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([-0.1, -0.11, -0.09], "better: the 95 % confidence interval leaves out 0"),
        ([0.1, 0.11, 0.09], "worse: the 95 % confidence interval leaves out 0"),
        ([-0.1, -0.2], "better, but not beyond chance"),
        ([-0.1, 0.2], "not distinguishable"),
        ([0.0, 0.0], "not distinguishable"),
        ([-0.1], "better on one seed, which has no error: nothing can be concluded"),
    ],
)
def test_readings_are_never_bolder_than_the_data(differences, words):
    assert reading(Estimate.of(differences), FINAL_LOSS).startswith(words)
    swapped = words.replace("better", "?").replace("worse", "better").replace("?", "worse")
    assert reading(Estimate.of(differences), ACCURACY).startswith(swapped)


def test_no_common_seed_allows_no_reading():
    assert "nothing can be said" in reading(None, ACCURACY)


def test_the_best_is_marked_only_where_the_seeds_can_tell():
    ste = make_group("ste", {0: (1, 0.80), 1: (1, 0.90)})
    like = make_group("like", {0: (1, 0.81), 1: (1, 0.89)})
    better = make_group("better", {0: (1, 0.85), 1: (1, 0.951)})
    single = make_group("single", {0: (1, 0.1)})
    assert best_marks([ste, like]) == ["maybe", "maybe"]
    assert best_marks([ste, better]) == ["", "yes"]
    assert best_marks([ste, like, better]) == ["", "maybe", "maybe"]  # two seeds say little
    assert best_marks([ste, better, single]) == ["", "maybe", "maybe"]


def test_runs_are_grouped_by_what_differs_but_the_seed(tmp_path):
    settings = [
        {"method": "ste", "seed": 0},
        {"method": "ste", "seed": 1, "data_dir": "/elsewhere"},
        {"method": "ste", "lr": 2e-3},
        {"method": "fsg", "variant": "reference"},
    ]
    paths = [make_run(tmp_path / str(i), [1.0, 0.5], [0.1, 0.2], **own) for i, own in enumerate(settings)]
    groups = group_runs([read_run(path) for path in paths])
    assert {group.label: list(group.runs) for group in groups} == {
        "ste": [0, 1],
        "ste:lr=0.002": [0],
        "fsg:variant=reference": [0],
    }
    twin = make_run(tmp_path / "twin", [1.0, 0.5], [0.1, 0.2], method="ste", data_dir="/a/third")
    with pytest.raises(FsgError, match="twin have the same settings and the same seed"):
        group_runs([read_run(path) for path in [*paths, twin]])


@pytest.fixture
def groups(tmp_path):
    """ste with seeds 0 and 1, fsg with seeds 0 and 1 and twice as slow."""
    courses = {
        ("ste", 0): ([2.0, 1.0, 0.5], [0.3, 0.6, 0.8]),
        ("ste", 1): ([2.2, 1.2, 0.7], [0.2, 0.7, 0.7]),
        ("fsg", 0): ([1.9, 0.9, 0.4], [0.3, 0.9, 0.8]),
        ("fsg", 1): ([2.1, 1.0, 0.6], [0.4, 0.9, 0.9]),
    }
    runs = []
    for (method, seed), (losses, accuracies) in courses.items():
        pace = 10.0 if method == "ste" else 20.0
        path = make_run(
            tmp_path / f"{method}{seed}", losses, accuracies, method=method, seed=seed, pace=pace, threads=1
        )
        runs.append(read_run(path))
    return group_runs(runs)


def test_the_tables_hold_the_figures(groups):
    ste, fsg = (dict(zip(results(groups)[0], cells, strict=True)) for cells in results(groups)[1:])
    assert ste["runs"] == "2" and ste["final training loss"] == "0.6000 ± 0.1000"
    assert ste["training loss at epoch 1"] == "2.1000 ± 0.1000"
    assert fsg["test accuracy"] == "85.00 ± 5.00 %"  # of the last epoch; the best was 90 %
    assert (ste["seconds per step"], fsg["seconds per step"], fsg["ratio"]) == ("0.5", "1", "2.00")
    rows = paired(groups)[1:]
    assert [row[3] for row in rows] == ["-0.1000 ± 0.0000", "-0.1000 ± 0.0000", "+10.00 ± 10.00 points"]
    assert "not distinguishable" in rows[2][4]


def test_the_half_of_a_run_that_ended_early_may_be_missing(tmp_path):
    path = make_run(tmp_path / "short", [1.0, 0.9], [0.1, 0.2], epochs=12)
    groups = group_runs([read_run(path)])
    assert measures(groups)[0].name == "training loss at epoch 6" and results(groups)[1][2] == "-"
    assert "Some runs ended before the epochs that were set" in markdown(groups)


def test_curves_are_means_over_seeds_of_the_epochs_all_have(groups, tmp_path):
    drawn = curve(groups[1])
    assert drawn.epochs == [1, 2, 3] and drawn.seconds == [20, 40, 60]
    assert np.allclose(drawn.loss, [(2.0, 0.1), (0.95, 0.05), (0.5, 0.1)])
    longer = make_run(tmp_path / "longer", [1, 1, 1, 1], [0, 0, 0, 0], seed=2)
    assert curve(RunGroup("fsg", {**groups[1].runs, 2: read_run(longer)})).epochs == [1, 2, 3]
    alone = curve(RunGroup("one", {0: groups[0].runs[0]}))
    assert alone.loss == [(2.0, None), (1.0, None), (0.5, None)]


def test_the_files_hold_the_comparison(groups, tmp_path):
    write_comparison(groups, tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/compare.csv").read_text())))
    assert len(rows) == 12 and rows == list(csv.DictReader(io.StringIO(csv_text(groups))))
    last = rows[-1]
    assert (last["method"], last["seed"], last["epoch"], float(last["train_loss"])) == ("fsg", "1", "3", 0.6)
    text = (tmp_path / "out/compare.md").read_text()
    for line in ("- seeds: 0, 1", "- machine: a board", "- threads: 1", "| fsg | 2 | 2.0000 ± 0.1000 |"):
        assert line in text
    assert "fsg against ste:" in text and "compare.png" in text
    pixels = np.asarray(Image.open(tmp_path / "out/compare.png").convert("RGB")).reshape(-1, 3)
    for colour in ((31, 119, 180), (255, 127, 14)):  # of the first two methods
        assert (pixels == colour).all(1).sum() > 500
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.csv", "compare.md", "compare.png"]


def test_what_cannot_be_compared_is_said(groups, tmp_path):
    other = make_run(tmp_path / "other", [1.0, 1.0, 1.0], [0.5] * 3, method="irnet", dataset="cifar10", threads=2)
    (other / "summary.json").write_text('{"seconds_per_step": 1, "machine": "a server", "threads": 2}')
    mixed = [*groups, *group_runs([read_run(other)])]
    text = markdown(mixed)
    assert "different machines" in text and "- machine: a board, a server" in text
    assert text.index("Warning: the runs are of different data sets (digits, cifar10)") < text.index("## Results")
    assert "seed by seed" not in text and [row[5] for row in results(mixed)] == ["best?", "", "", ""]
    bigger = make_run(tmp_path / "bigger", [1.0, 1.0, 1.0], [0.5] * 3, model="resnet32")
    text = markdown([*groups, *group_runs([read_run(bigger)])])
    assert text.index("Warning: the runs are of different networks (resnet20, resnet32)") < text.index("## Results")
    assert "seed by seed" in text
    assert "different machines" not in markdown(groups) and "different data sets" not in markdown(groups)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", None, "is not finished: fsg train --resume"),
        ("summary.json", "[]", "summary.json: is no JSON object"),
        ("summary.json", "{", "summary.json: cannot be read"),
        ("metrics.csv", None, "metrics.csv has no rows"),
        ("metrics.csv", "epoch,train_loss,test_accuracy\n1,2,0.5\n", "has no seconds"),
        ("metrics.csv", "epoch,train_loss,test_accuracy,seconds\n", "has no rows"),
        ("metrics.csv", "epoch,train_loss,test_accuracy,seconds\n1,2\n", "metrics.csv: cannot be read"),
        ("config.toml", None, "is not a run"),
    ],
)
def test_what_is_no_finished_run_is_refused(tmp_path, name, content, message):
    run = make_run(tmp_path / "run", [1.0], [0.5])
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    with pytest.raises(FsgError, match=message):
        read_run(run)


def test_methods_carry_settings_of_any_type():
    entries = parse_methods(
        "ste, fsg:variant=reference:history=8 ,ste:lr=1:slow=false:dataset=npz:/a/b.npz:step-epochs=3"
    )
    assert list(entries) == [
        "ste",
        "fsg:variant=reference:history=8",
        "ste:lr=1:slow=false:dataset=npz:/a/b.npz:step-epochs=3",
    ]
    assert list(entries.values()) == [
        {"method": "ste"},
        {"method": "fsg", "variant": "reference", "history": 8},
        {"method": "ste", "lr": 1.0, "slow": False, "dataset": "npz:/a/b.npz", "step_epochs": 3},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "unknown method 'magic'"),
        ("ste:lr", "unknown method 'ste:lr'"),
        ("ste:lrr=1", "unknown key 'lrr'; did you mean lr"),
        ("ste:epochs=2.5", "epochs is 2.5; it must be of type int"),
        ("ste,ste", "stands twice"),
        ("ste:seed=1", "--seeds lists the seeds"),
        ("ste:method=fsg", "method and seed are no settings"),
        (" , ", "empty"),
    ],
)
def test_mistyped_methods_are_refused(text, message):
    with pytest.raises(FsgError, match=message):
        parse_methods(text)


def test_seeds():
    assert parse_seeds("0, 1,12") == [0, 1, 12]
    for text in ("", "1,,2", "a", "-1", "1,01"):
        with pytest.raises(FsgError, match="give different whole numbers"):
            parse_seeds(text)


def test_every_seed_is_run_with_all_methods_before_the_next(tmp_path):
    entries = {"ste": Config(method="ste"), "fsg:lr=0.1": Config(lr=0.1)}
    runs = plan_runs(entries, [3, 1], tmp_path)
    assert [run.folder.name for run in runs] == [
        "ste-seed3", "fsg_lr=0.1-seed3", "ste-seed1", "fsg_lr=0.1-seed1",
    ]  # fmt: skip
    assert [run.config for run in runs[2:]] == [replace(config, seed=1) for config in entries.values()]


def test_plans_that_would_mix_runs_up_are_refused(tmp_path):
    with pytest.raises(FsgError, match=r"ste and ste:lr=0\.008 are the same settings"):
        plan_runs({"ste": Config(method="ste"), "ste:lr=0.008": Config(method="ste", lr=0.008)}, [0], tmp_path)
    with pytest.raises(FsgError, match="would both be"):
        plan_runs({"ste:init=a/b": Config(init="a/b"), "ste:init=a:b": Config(init="a:b")}, [0], tmp_path)


def test_a_run_with_other_settings_is_refused_once_it_has_begun(tmp_path):
    path = make_run(tmp_path / "ste-seed0", [1.0, 0.5], [0.1, 0.2], method="ste")
    other = {"ste": Config(method="ste", epochs=3)}
    (run,) = plan_runs(other, [0], tmp_path / "elsewhere")
    assert not run.begun and not run.finished
    with pytest.raises(FsgError, match="ste-seed0 was trained with epochs = 2, not 3: choose another --out"):
        plan_runs(other, [0], tmp_path)
    (run,) = plan_runs({"ste": Config(method="ste", epochs=2)}, [0], tmp_path)
    assert run.begun and run.finished
    (path / "summary.json").unlink()
    (path / "metrics.csv").unlink()
    (run,) = plan_runs(other, [0], tmp_path)  # nothing was trained, so nothing is lost
    assert not run.begun


def test_the_time_left_follows_the_pace_of_each_method(tmp_path):
    folders = {
        ("ste", 0): make_run(tmp_path / "done", [1.0] * 4, [0.5] * 4, pace=10),
        ("fsg", 0): make_run(tmp_path / "half", [1.0] * 2, [0.5] * 2, pace=30, epochs=4),
    }
    (tmp_path / "half/summary.json").unlink()
    entries = [("ste", 0), ("fsg", 0), ("ste", 1), ("fsg", 1), ("irnet", 0)]
    runs = [
        PlannedRun(label, Config(epochs=4, seed=seed), folders.get((label, seed), tmp_path / f"{label}{seed}"))
        for label, seed in entries
    ]
    assert seconds_left(runs) == 2 * 30 + 4 * 10 + 4 * 30 + 4 * 20
    assert seconds_left(runs[2:]) is None


@pytest.mark.parametrize("count", [1, 2, 7])
def test_labels_beside_a_panel_are_moved_apart(count):
    rng = np.random.default_rng(count)
    for _ in range(50):
        heights = list(rng.uniform(0, 1, count).round(1))  # equal ones too
        placed = np.array(spread(heights, 0.1))
        order = np.argsort(placed)
        assert (np.diff(placed[order]) >= 0.1 - 1e-12).all() and placed.max() <= 1 + 1e-12
        assert (np.diff(np.array(heights)[order]) >= 0).all()
    assert spread([0.2, 0.8], 0.1) == [0.2, 0.8]


def test_quartiles_agree_with_numpy():
    for count in (1, 2, 5, 30):
        values = list(np.random.default_rng(count).normal(size=count))
        assert quartiles(values) == pytest.approx(np.percentile(values, [25, 50, 75]))


@pytest.mark.slow  # every day, tests/test_cli_compare.py measures some
def test_steps_are_measured_in_turns():
    common = {"batch_size": 4, "threads": 1, "history": 1}
    entries = {"ste": Config(method="ste", **common), "fsg": Config(method="fsg", **common)}
    told = []
    ste, fsg = measure_steps(entries, rounds=2, steps=2, show=told.append)
    assert told[2:] == ["round 1 of 2: ste", "round 1 of 2: fsg", "round 2 of 2: ste", "round 2 of 2: fsg"]
    for cost in (ste, fsg):
        assert [len(steps) for steps in cost.rounds] == [2, 2] and min(map(min, cost.rounds)) > 0
        assert cost.peak_rss_bytes > cost.base_rss_bytes > 1e7 and cost.threads == 1
        assert cost.seconds == pytest.approx(np.percentile(np.ravel(cost.rounds), [25, 50, 75]))
    assert ste.ratio(ste) == (1, 1, 1) and ste.hypernetwork_parameters == 0 < fsg.hypernetwork_parameters
    medians = np.median(fsg.rounds, 1) / np.median(ste.rounds, 1)
    assert fsg.ratio(ste)[1] == pytest.approx(np.median(medians))


def test_a_method_that_cannot_be_built_is_named():
    with pytest.raises(FsgError, match=r"^bad: .*nowhere"):
        measure_steps({"bad": Config(model="nowhere:nothing")}, rounds=1, steps=1)


def test_measured_steps_are_those_of_training():
    import torch

    from fsg.training.experiments.bench_step import prepared_step

    losses = {}
    for method in ("ste", "fsg"):
        config = Config(method=method, batch_size=8, precision="float64", threads=1)
        try:
            take_step, _ = prepared_step(config, torch.device("cpu"))
            losses[method] = [take_step() for _ in range(3)]
        finally:
            torch.set_default_dtype(torch.float32)
    assert losses["ste"][0] == losses["fsg"][0] != losses["ste"][1]  # the same network and images at the start
    assert losses["ste"][2] != losses["fsg"][2] and all(map(math.isfinite, losses["fsg"]))
