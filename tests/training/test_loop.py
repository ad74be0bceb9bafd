"""The training loop: its schedule, averages, stops and records, on a handful of real digits."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from fsg import FsgError
from fsg.runtime.model.classes import CONFUSION, read_confusion
from fsg.training import loop
from fsg.training.checkpoint import BEST, digest, read_checkpoint
from fsg.training.config import Config, load_config, save_config
from fsg.training.data.feed import Normalizer
from fsg.training.data.load import load_dataset
from fsg.training.data.normalization import NORMALIZATIONS, normalization
from fsg.training.data.sets import Dataset, class_weights
from fsg.training.distributed import Processes
from fsg.training.evaluate import evaluate_on
from fsg.training.folder import read_metrics
from fsg.training.loop import fitting_batch, learning_rate, told_of
from fsg.training.networks.average import AveragedModel
from fsg.training.networks.layers import BinaryConv2d, binary_layers
from fsg.training.networks.resnet import build_float_model, build_model
from fsg.training.objective import Objective, load_teacher
from fsg.training.record import count_flips, signs
from fsg.training.run import open_run


@pytest.fixture
def trained(tiny_npz, tmp_path):
    """Trains into a folder of that name; returns the folder, the summary and what was printed."""
    torch_threads = torch.get_num_threads()

    def run(name, config=None, **settings):
        folder = tmp_path / name
        if config is None:
            defaults = {"method": "ste", "epochs": 1, "batch_size": 16, "deterministic": True, "device": "cpu"}
            config = Config(**{"dataset": f"npz:{tiny_npz}", **defaults, **settings})
            folder.mkdir()
            save_config(config, folder / "config.toml")
        text = io.StringIO()
        summary = loop.train(config, folder, Console(file=text, width=200))
        return folder, summary, text.getvalue()

    yield run
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(torch_threads)


def table(path):
    with open(path) as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same(left, right, path=""):
    """Compares nested containers of tensors exactly, all but the times in them."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left.keys() - {"seconds"}:
            assert_same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    else:
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, path


def test_learning_rate():
    rates = [learning_rate(Config(lr=1.0, epochs=4, warmup_epochs=1.5), step, 4) for step in range(16)]
    assert rates[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert rates[6:] == pytest.approx([0.5 * (1 + np.cos(np.pi * step / 10)) for step in range(10)])
    steps = Config(lr=1.0, epochs=5, schedule="step", step_epochs=2)
    assert [learning_rate(steps, 3 * epoch + 2, 3) for epoch in range(5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    constant = Config(lr=1.0, epochs=5, schedule="constant", warmup_epochs=1.0)
    assert [learning_rate(constant, step, 2) for step in (0, 1, 2, 9)] == [0.5, 1, 1, 1]


def test_an_average_is_that_of_the_states():
    torch.manual_seed(0)
    model = nn.Sequential(BinaryConv2d(3, 4, 3), nn.BatchNorm2d(4))
    average = AveragedModel(model, 0.3)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in range(1, 8):
        for parameter in model.parameters():
            parameter.data.normal_()
        model(torch.randn(2, 3, 5, 5))
        average.update(model, step)
        decay = min(0.3, step / (step + 9))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert average.model[1].num_batches_tracked == 7
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_flips_are_counted_by_layer_and_in_all():
    before = {"a": torch.tensor([True, False, True, True]), "b": torch.tensor([[False, True]])}
    after = {"a": torch.tensor([True, True, True, True]), "b": torch.tensor([[True, False]])}
    assert count_flips(before, after) == (0.5, {"a": 0.25, "b": 1.0})
    assert count_flips({}, {}) == (0.0, {})
    layer = BinaryConv2d(2, 3, 3)
    assert torch.equal(signs(nn.Sequential(layer))["0"], layer.binary_weight() > 0)


def test_the_objective_by_hand():
    torch.manual_seed(0)
    images, logits, labels = torch.randn(5, 6), torch.randn(5, 4), torch.randint(4, (5,))
    teacher = nn.Linear(6, 4)
    smooth = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    hard = -(smooth * logits.log_softmax(1)).sum(1).mean()
    config = Config(label_smoothing=0.2, teacher_weight=0.25, temperature=3.0)
    torch.testing.assert_close(Objective(config)(images, logits, labels), hard)
    p, q = (teacher(images) / 3).softmax(1), (logits / 3).softmax(1)
    soft = (p * (p / q).log()).sum(1).mean()
    objective = Objective(config, teacher)
    torch.testing.assert_close(objective(images, logits, labels), 0.75 * hard + 0.25 * 9 * soft)
    leaf = logits.requires_grad_()
    objective(images, leaf, labels).backward()
    assert leaf.grad.abs().sum() > 0 and teacher.weight.grad is None


def test_a_float_twin_takes_the_weights_of_the_binary_network():
    binary = build_model("resnet20", classes=3, activation_bits=32)
    twin = build_float_model("resnet20", classes=3)
    assert not binary_layers(twin)
    twin.load_state_dict(binary.state_dict())
    for layer in binary_layers(binary).values():  # by float weights the two are one network
        layer.binary = layer.weight.detach()
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(twin(images), binary(images))


def test_normalization(tiny_npz):
    data = load_dataset(f"npz:{tiny_npz}")
    own = (data.mean, data.std)
    assert normalization(Config(), data) == own
    assert normalization(Config(init="a.pth"), data) == NORMALIZATIONS["cifar10"]
    assert normalization(Config(teacher="a.pth", normalization="data"), data) == own
    assert normalization(Config(normalization="imagenet"), data) == NORMALIZATIONS["imagenet"]
    assert normalization(Config(init="a.pth", model="torchvision:resnet18"), data) == NORMALIZATIONS["imagenet"]
    assert normalization(Config(init="a.pth", model="my:net"), data) == own
    hundred = replace(data, class_names=tuple(map(str, range(100))))
    assert normalization(Config(init="a.pth"), hundred) == NORMALIZATIONS["half"]
    grey = replace(data, x_test=data.x_test[:, :1])
    with pytest.raises(FsgError, match="normalization cifar10 is for 3 channels, the images have 1"):
        normalization(Config(normalization="cifar10"), grey)


def test_classes_with_few_images_count_as_much_as_others():
    data = load_dataset("digits")
    kept = np.flatnonzero((data.y_train < 2) & (np.cumsum(data.y_train == 1) <= 10))
    data = replace(data, x_train=data.x_train[kept], y_train=data.y_train[kept], class_names=("0", "1", "none"))
    zeros, ones = np.bincount(data.y_train)
    assert ones == 10 < zeros and class_weights(Config(), data) == ()
    weights = class_weights(Config(class_weights="balanced"), data)
    assert weights[:2] == pytest.approx(((zeros + 10) / (2 * zeros), (zeros + 10) / 20))
    assert np.mean([weights[label] for label in data.y_train]) == pytest.approx(1)

    torch.manual_seed(0)
    logits, labels = torch.randn(len(kept), 3), torch.from_numpy(data.y_train)
    loss = Objective(Config(), class_weights=weights)(torch.empty(0), logits, labels)
    each = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(loss, (each[labels == 0].mean() + each[labels == 1].mean()) / 2)
    config = Config(label_smoothing=0.2)
    same = Objective(config, class_weights=(1.0, 1.0, 1.0))(torch.empty(0), logits, labels)
    torch.testing.assert_close(same, Objective(config)(torch.empty(0), logits, labels))


def test_balanced_classes_are_told_and_kept(trained):
    folder, _, text = trained("run", class_weights="balanced", epochs=1)
    assert "all classes count alike: weights of " in text
    assert load_config(folder / "config.toml").class_weights == "balanced"


@pytest.mark.parametrize("method", [pytest.param("ste", marks=pytest.mark.slow), "fsg"])
def test_deterministic_runs_are_the_same(trained, method):
    first, second, other = (trained(f"run{i}", method=method, seed=seed)[0] for i, seed in enumerate((3, 3, 4)))
    assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1
    assert_same(read_checkpoint(first), read_checkpoint(second))
    assert not torch.equal(*(read_checkpoint(folder)["model"]["conv1.weight"] for folder in (first, other)))


def test_a_run_that_stops_for_its_time_goes_on_exactly(trained):
    settings = {"epochs": 3, "ema": 0.5, "warmup_epochs": 0.5, "label_smoothing": 0.1}
    whole, whole_summary, _ = trained("whole", **settings)
    folder, summary, _ = trained("parts", **settings, max_minutes=1e-6)
    assert (summary["stopped"], summary["epochs"]) == ("max_minutes", 1)
    assert not (folder / "summary.json").exists()
    for epochs in (2, 3):
        _, summary, text = trained("parts", load_config(folder / "config.toml"))
        assert summary["epochs"] == epochs and f"after epoch {epochs - 1}" in text
    assert summary["stopped"] == whole_summary["stopped"] == ""
    assert_same(read_checkpoint(whole), read_checkpoint(folder))
    times = {"seconds": 0, "seconds_per_step": 0}
    assert summary | times == whole_summary | times


def test_epochs_between_tests_have_no_test_figures(trained):
    folder, summary, text = trained("run", epochs=4, test_every=3, patience=1)
    rows = read_metrics(folder)
    assert [math.isfinite(row["test_loss"]) for row in rows] == [False, False, True, True]
    assert summary["test_accuracy"] == rows[-1]["test_accuracy"] and summary["stopped"] == ""
    assert text.count("test accuracy") == 2 and (folder / "curves.png").exists()
    every, *_ = trained("every", epochs=4)
    assert read_metrics(every)[-1]["test_loss"] == rows[-1]["test_loss"]


def test_the_best_epoch_is_kept_beside_the_last(trained):
    folder, summary, _ = trained("run", epochs=6, lr=0.03, schedule="constant", seed=3)
    rows = read_metrics(folder)
    accuracies = [row["test_accuracy"] for row in rows]
    best = accuracies.index(max(accuracies))
    assert best < 5 and summary["best_epoch"] == best + 1, accuracies
    run = open_run(folder, best=True)
    assert (run.epoch, run.test_accuracy, open_run(folder).epoch) == (best + 1, max(accuracies), 6)
    assert evaluate_on(folder, best=True)["accuracy"] == max(accuracies)
    assert evaluate_on(folder)["accuracy"] == accuracies[5] and digest(folder) != digest(folder, BEST)
    (folder / BEST).unlink()
    with pytest.raises(FsgError, match=r"has no best\.pt"):
        open_run(folder, best=True)


def test_a_kill_between_two_checkpoints_loses_no_best_epoch(trained, tmp_path, monkeypatch):
    def killed(folder, content, *name):
        save(folder, content, *name)
        raise KeyboardInterrupt

    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        trained("run", epochs=2, lr=1e-9, schedule="constant")
    monkeypatch.setattr(loop, "save_checkpoint", save)
    folder, summary, _ = trained("run", load_config(tmp_path / "run" / "config.toml"))
    assert open_run(folder, best=True).epoch == summary["best_epoch"]


def test_images_are_resized_wherever_the_run_is_used(trained):
    folder, *_ = trained("run", image_size=16, train_images=40, epochs=1)
    run = open_run(folder)
    assert run.input_shape[1:] == (16, 16) and run.metadata["image_size"] == 16
    assert evaluate_on(folder)["accuracy"] == read_metrics(folder)[-1]["test_accuracy"]


def test_the_average_is_tested_and_exported_and_the_weights_are_kept(trained):
    folder, summary, _ = trained("run", ema=0.9)
    checkpoint = read_checkpoint(folder)
    assert not torch.equal(checkpoint["model"]["conv1.weight"], checkpoint["latent"]["conv1.weight"])
    run = open_run(folder)
    assert all(torch.equal(value, checkpoint["model"][name]) for name, value in run.model.state_dict().items())
    data = load_dataset(run.config.dataset)
    images = Normalizer(run.data, torch.device("cpu"))(data.x_test)
    assert loop.evaluate(run.model, images, torch.from_numpy(data.y_test), Processes())[1] == summary["test_accuracy"]


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_statistics_are_taken_anew_after_the_last_epoch_and_then_tested(trained, ema):
    settings = {"epochs": 2, "ema": ema, "seed": 5}
    plain, *_ = trained("plain", **settings)
    folder, summary, _ = trained("run", recalibrate=20, **settings)  # of 48 images, in batches of 16
    before, after = read_checkpoint(plain), read_checkpoint(folder)
    assert read_metrics(plain)[0]["test_loss"] == read_metrics(folder)[0]["test_loss"]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in before["model"].items():
        assert torch.equal(after["model"][name], value) != name.endswith(statistics), name
    if ema:
        assert_same(before["latent"], after["latent"])

    run = open_run(folder)
    data = load_dataset(run.config.dataset)
    normalize = Normalizer(run.data, torch.device("cpu"))
    order = np.random.default_rng([5, 1, 1]).permutation(48)
    with torch.no_grad():
        maps = [run.model.conv1(normalize(data.x_train[order[start : start + 16]])) for start in (0, 16)]
    state = run.model.state_dict()
    for name, statistic in (("running_mean", torch.mean), ("running_var", torch.var)):
        expected = torch.stack([statistic(values, (0, 2, 3)) for values in maps]).mean(0)
        torch.testing.assert_close(state[f"bn1.{name}"], expected)
    images = normalize(data.x_test)
    found = loop.evaluate(run.model, images, torch.from_numpy(data.y_test), Processes())
    assert found[:2] == pytest.approx((read_metrics(folder)[-1]["test_loss"], summary["test_accuracy"]))
    matrix, names = read_confusion(folder / CONFUSION)
    assert (matrix == found[2]).all() and tuple(names) == data.class_names and matrix.sum() == len(data.y_test)

    again = trained("run", replace(load_config(folder / "config.toml"), epochs=3))[1]
    assert again["epochs"] == 3


@pytest.mark.parametrize("method", ["fsg", "ste"])
def test_all_parts_of_the_recipe_are_trained_resumed_and_opened(trained, method):
    settings = {"epochs": 3, "thresholds": True, "shortcut_pool": True, "ede_end": 0.4, "two_stages": 0.4}
    settings |= {"recalibrate": 32, "method": method, "model": "resnet8"}
    whole, *_ = trained("whole", **settings)
    trained("run", max_minutes=1e-9, **settings)
    for _ in range(2):
        config = load_config(whole.parent / "run" / "config.toml")
        folder, *_ = trained("run", config)
    assert_same(read_checkpoint(whole), read_checkpoint(folder))
    assert evaluate_on(folder)["accuracy"] == read_metrics(folder)[-1]["test_accuracy"]
    assert open_run(folder).model.layer1[0].sign1[0].shift.any()


def test_more_epochs_and_what_the_folder_then_says(trained):
    folder, _, _ = trained("run", schedule="constant")
    whole, _, _ = trained("whole", schedule="constant", epochs=2)
    config = replace(load_config(folder / "config.toml"), epochs=2)
    _, summary, _ = trained("run", config)
    assert load_config(folder / "config.toml") == config
    assert summary["epochs"] == len(table(folder / "metrics.csv")) == 2
    assert_same(read_checkpoint(whole), read_checkpoint(folder))


def test_records(trained):
    folder, summary, _ = trained("run", epochs=2, lr=0.05, tensorboard=True)
    rows, flips = table(folder / "metrics.csv"), table(folder / "flips.csv")
    sizes = {name: layer.weight.numel() for name, layer in binary_layers(open_run(folder).model).items()}
    assert list(flips[0]) == ["epoch", *sizes]
    for row, shares in zip(rows, flips, strict=True):
        assert row["epoch"] == shares["epoch"] and 0 < row["flips"] < 1
        assert row["flips"] == pytest.approx(
            sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())
        )
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] == summary["seconds"]
    best = max(rows, key=lambda row: row["test_accuracy"])
    assert (summary["best_test_accuracy"], summary["best_epoch"]) == (best["test_accuracy"], best["epoch"])
    assert summary["variant"] == "per-weight" and summary == json.loads((folder / "summary.json").read_text())

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = {"lr", "flips", "seconds", "loss/train", "loss/test", "accuracy/train", "accuracy/test"}
    assert set(events.Tags()["scalars"]) == tags | {f"flips/{name}" for name in sizes}
    assert [event.step for event in events.Scalars("loss/test")] == [1, 2]
    assert [event.value for event in events.Scalars("loss/test")] == pytest.approx([row["test_loss"] for row in rows])


def test_patience(trained, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    monkeypatch.setattr(loop, "evaluate", lambda *_: (next(losses), 0.5, np.eye(10, dtype=int)))
    folder, summary, _ = trained("run", epochs=9, patience=2)
    assert (summary["stopped"], summary["epochs"]) == ("patience", 4)
    config = load_config(folder / "config.toml")
    assert trained("run", config)[1] == summary  # nothing is trained before the setting changes
    _, summary, _ = trained("run", replace(config, patience=0, epochs=5))
    assert (summary["stopped"], summary["epochs"]) == ("", 5)


def test_a_teacher(trained, tmp_path, monkeypatch):
    torch.manual_seed(1)
    torch.save(build_float_model("resnet20", classes=10).state_dict(), tmp_path / "teacher.pth")
    folder, _, text = trained("run", teacher=str(tmp_path / "teacher.pth"), teacher_weight=1.0)
    assert "the teacher's test accuracy is" in text
    content = read_checkpoint(folder)
    assert (content["data"]["mean"], content["data"]["std"]) == NORMALIZATIONS["cifar10"]
    plain, _, _ = trained("plain", normalization="cifar10")
    assert not torch.equal(read_checkpoint(plain)["model"]["fc.weight"], content["model"]["fc.weight"])
    with pytest.raises(FsgError, match=r"teacher .*nowhere.pth: no such file"):
        trained("missing", teacher=str(tmp_path / "nowhere.pth"))
    (tmp_path / "user_nets.py").write_text(
        "from torch import nn\nfrom fsg.training.layers import BinaryLinear\n"
        "def net(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))\n"
        "def binary(num_classes):\n    return nn.Sequential(nn.Flatten(), BinaryLinear(12, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"1.weight": torch.ones(5, 12), "1.bias": torch.zeros(5)}, tmp_path / "net.pth")
    weights = str(tmp_path / "net.pth")
    teacher = load_teacher(Config(model="user_nets:net", teacher=weights), 5, (3, 2, 2))
    assert teacher(torch.ones(1, 3, 2, 2)).tolist() == [[12] * 5]
    with pytest.raises(FsgError, match="user_nets:binary makes a binary network"):
        load_teacher(Config(model="user_nets:binary", teacher=weights), 5, (3, 2, 2))


@pytest.mark.parametrize("where", ["training", "test"])
def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(trained, monkeypatch, where):
    folder, _, _ = trained("run")
    before = (folder / "checkpoint.pt").read_bytes()
    if where == "training":
        monkeypatch.setattr(Objective, "__call__", lambda self, images, logits, labels: logits.sum() * float("nan"))
    else:
        monkeypatch.setattr(loop, "evaluate", lambda *_: (float("inf"), 0.5, None))
    config = replace(load_config(folder / "config.toml"), epochs=2)
    with pytest.raises(FsgError, match=r"became (nan|inf) in epoch 2; the checkpoint of epoch 1 is kept"):
        trained("run", config)
    assert (folder / "checkpoint.pt").read_bytes() == before and len(table(folder / "metrics.csv")) == 1


def test_other_data_or_weights_are_not_resumed(trained, tiny_npz, tmp_path):
    folder, _, _ = trained("run", init="")
    with np.load(tiny_npz) as archive:
        data = dict(archive)
    np.savez(tmp_path / "other.npz", **data | {"x_train": data["x_train"] // 2})
    np.savez(tmp_path / "fewer.npz", **data | {"x_train": data["x_train"][:32], "y_train": data["y_train"][:32]})
    config = replace(load_config(folder / "config.toml"), epochs=2)
    for name in ("other", "fewer"):
        with pytest.raises(FsgError, match=f"{name}.npz does not hold what the run in .* was trained on"):
            trained("run", replace(config, dataset=f"npz:{tmp_path / name}.npz"))
    with pytest.raises(FsgError, match=r"checkpoint.pt does not fit"):
        trained("run", replace(config, model="resnet32"))


def test_initial_weights_are_read_once(trained, tmp_path):
    path = tmp_path / "init.pth"
    torch.save(build_float_model("resnet20", classes=10).state_dict(), path)
    folder, _, _ = trained("run", init=str(path), lr=1e-9)
    first = torch.load(path)["conv1.weight"]
    torch.testing.assert_close(read_checkpoint(folder)["model"]["conv1.weight"], first, rtol=0, atol=1e-6)
    path.unlink()
    assert trained("run", replace(load_config(folder / "config.toml"), epochs=2))[1]["epochs"] == 2


def test_fewer_images_than_a_batch(trained, tiny_npz, tmp_path):
    folder, summary, text = trained("few", batch_size=64, epochs=2)
    assert "; batches of 12, as they are few" in text and summary["epochs"] == 2
    assert read_checkpoint(folder)["steps"] == 2 * 4
    assert [fitting_batch(64, count, 1) for count in (200, 64, 63, 9, 2)] == [64, 64, 15, 2, 2]
    assert [fitting_batch(64, count, 4) for count in (64, 63, 30, 17)] == [64, 12, 4, 4]
    for count, processes in ((0, 1), (1, 1), (3, 4)):
        with pytest.raises(FsgError, match=f"{count} training images are too few"):
            fitting_batch(64, count, processes)


def test_a_sign_that_is_the_same_for_all_images_is_told(trained, tmp_path, monkeypatch):
    (tmp_path / "squares.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.one, self.two, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.two(self.one(x).square()).mean((2, 3)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _, _, text = trained("run", model="squares:Net")
    assert "warning: every bit is the same in two_sign (+1): what is read there never changes sign" in text
    assert "every bit" not in trained("plain")[2]


def test_what_was_read_is_told_by_class_and_size():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 1, 10, 12), np.uint8)
    labels, names = np.array([0, 0, 1, 1, 1, 5]), tuple("abcdef")
    data = Dataset("few", images, labels, images[:2], labels[:2], names, mean=(0.5,), std=(1.0,), flip=False, pad=0)
    assert told_of(data) == [
        "6 classes (a, b, ..., f) with 0 to 3 training images each (none of c, d, e), 2 test images, all of 12x10"
        " pixels and 1 channel; training images are taken as they are"
    ]


def test_images_of_a_single_class_are_refused(tmp_path):
    images, labels = np.zeros((8, 1, 8, 8), np.uint8), np.ones(8, int)
    np.savez(tmp_path / "one.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = Config(dataset=f"npz:{tmp_path}/one.npz")
    with pytest.raises(FsgError, match=r"one\.npz: all training images are of one class"):
        loop.train(config, tmp_path, Console(quiet=True))
