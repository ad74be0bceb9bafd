"""Settings from files, from key=value, and of resumed runs."""

from dataclasses import asdict, fields

import click
import pytest

from fsg import FsgError
from fsg.training.config import (
    HEADINGS,
    PRESETS,
    RESUMABLE,
    Config,
    load_config,
    parse_assignment,
    read_settings,
    resume_config,
    save_config,
)
from fsg.training.options import config_options, given_settings


def test_a_saved_config_is_read_back_whole_and_as_settings(tmp_path):
    config = Config(lr=0.5, dataset='npz:/a "b".npz', slow=False, epochs=3)
    path = tmp_path / "config.toml"
    save_config(config, path)
    assert load_config(path) == config
    assert read_settings(path) == asdict(config)
    path.write_text("epochs = 7\nlr = 1\n")
    assert read_settings(path) == {"epochs": 7, "lr": 1.0}
    with pytest.raises(FsgError, match="has no run format"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 7", "unknown key 'epoch'; did you mean epochs?"),
        ("epochs = 7.5", "epochs is 7.5; it must be of type int"),
        ("augment = 1", "augment is 1; it must be of type bool"),
        ("format = 1\nepochs = 7", "has run format 1, this fsg reads format"),
        ("epochs 7", "cannot read"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(FsgError, match=r"settings\.toml") as error:
        read_settings(path)
    assert message in str(error.value)
    with pytest.raises(FsgError, match=r"cannot read .*nowhere.toml: No such file"):
        read_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("epochs=7", {"epochs": 7}),
        ("lr = 1e-3", {"lr": 1e-3}),
        ("lr=1", {"lr": 1.0}),
        ("batch-size=32", {"batch_size": 32}),
        ("augment=false", {"augment": False}),
        ("method=ste", {"method": "ste"}),
        ('method="ste"', {"method": "ste"}),
        ("dataset=npz:a=b.npz", {"dataset": "npz:a=b.npz"}),
        ("init=", {"init": ""}),
    ],
)
def test_assignments(text, settings):
    assert parse_assignment(text, "here") == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "here: 'epochs' is no setting; write key=value"),
        ("ephocs=3", "here: unknown key 'ephocs'; did you mean epochs?"),
        ("slow=off", "slow is 'off'; it must be of type bool"),
        ("method=2", "method is 2; it must be of type str"),
    ],
)
def test_assignments_that_are_refused(text, message):
    with pytest.raises(FsgError) as error:
        parse_assignment(text, "here")
    assert message in str(error.value)


def test_a_resumed_run_may_move_and_go_on_but_not_change(tmp_path):
    config = Config(dataset="npz:/old/a.npz", teacher="/old/t.pth", epochs=10)
    changes = {
        "dataset": "npz:/new/a.npz",
        "teacher": "/new/t.pth",
        "data_dir": "/new",
        "threads": 2,
        "device": "cpu",
        "epochs": 20,
        "test_every": 2,
        "patience": 3,
        "max_minutes": 5.0,
        "tensorboard": True,
        "compile": True,
    }
    assert set(changes) == set(RESUMABLE)
    resumed = resume_config(config, changes | {"lr": config.lr}, tmp_path)
    assert asdict(resumed) == asdict(config) | changes
    for name, value in {
        "epochs": 9,
        "dataset": "folder:/new",
        "teacher": "",
        "lr": 0.1,
        "method": "ste",
        "seed": 1,
        "init": "/new/i.pth",
    }.items():
        with pytest.raises(FsgError, match=f"--{name} .* contradicts"):
            resume_config(config, {name: value}, tmp_path)
    with pytest.raises(FsgError, match="--teacher"):
        resume_config(Config(), {"teacher": "/new/t.pth"}, tmp_path)
    with pytest.raises(FsgError, match="--dataset"):
        resume_config(Config(dataset="digits"), {"dataset": "cifar10"}, tmp_path)


def test_warmup_must_end_before_the_training():
    assert Config(warmup_epochs=1.5, epochs=2).warmup_epochs == 1.5
    with pytest.raises(FsgError, match="warmup epochs is 2: it must be below epochs, 2"):
        Config(warmup_epochs=2.0, epochs=2)


def test_names_elsewhere_are_settings():
    names = [field.name for field in fields(Config)]
    assert set(HEADINGS) | set(RESUMABLE) <= set(names)
    assert names[0] in HEADINGS
    for preset in PRESETS.values():
        Config(**preset)


def test_a_file_that_was_cut_short_is_no_settings_of_a_run(tmp_path):
    path = tmp_path / "config.toml"
    save_config(Config(lr=0.125), path)
    lines = path.read_text().splitlines(keepends=True)
    for count in range(1, len(lines)):
        path.write_text("".join(lines[:count]))
        with pytest.raises(FsgError, match=r"config\.toml lacks \w+.*: it was cut short; restore it, or train anew"):
            load_config(path)
    path.write_text("".join(lines))
    assert load_config(path) == Config(lr=0.125)


def test_settings_of_any_text_come_back(tmp_path):
    config = Config(dataset='npz:/data/\U0001f980 \u1e9e "quoted" \\ back/a.npz', data_dir="/Daten/Grüße\t")
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


def test_a_byte_order_mark_is_no_setting(tmp_path):
    (tmp_path / "my.toml").write_text("lr = 0.5\n", encoding="utf-8-sig")
    assert read_settings(tmp_path / "my.toml") == {"lr": 0.5}


@pytest.mark.parametrize(
    "setting",
    [
        *("seed=99999999999999999999", "hidden=1000000", "history=100000000", "epochs=1000000000"),
        *("batch_size=99999999", "lr=1e300", "fast_lr=1e39", "slow_lr=1e39", "weight_decay=1e39", "temperature=1e39"),
    ],
)
def test_absurd_numbers_are_refused_before_anything_is_made(setting):
    with pytest.raises(FsgError, match=r"it must be at most [\d,]+$"):
        Config(**parse_assignment(setting, "--set"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--flip"], {"flip": "yes"}),
        (["--no-flip", "--crop", "2"], {"flip": "no", "crop": 2}),
        (["--set", "flip=yes"], {"flip": "yes"}),
        (["--set", "flip=yes", "--no-flip"], {"flip": "no"}),
    ],
)
def test_flags_of_settings_that_are_left_to_the_data(words, expected):
    found = []

    @click.command()
    @config_options
    @click.pass_context
    def command(context, **_):
        found.append(given_settings(context))

    command.main(words, standalone_mode=False)
    assert found == [expected]


def test_runs_from_before_a_setting_keep_what_they_did(tmp_path):
    path = tmp_path / "config.toml"
    for dataset, flip in (("npz:/a.npz", "yes"), ("folder:/b", "yes"), ("digits", "auto"), ("cifar10", "auto")):
        save_config(Config(dataset=dataset), path)
        recipe = ("thresholds", "shortcut_pool", "ede_end", "two_stages", "recalibrate", "int8_aware")
        later = ("flip", "crop", "export_check", "split", "fit", "class_weights", *recipe)
        path.write_text("".join(line for line in path.open() if line.split(" ")[0] not in later))
        assert load_config(path) == Config(dataset=dataset, flip=flip, fit="stretch", export_check=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "torchvision:resnet18", "thresholds": True}, "--thresholds is for fsg's own networks, not torchv"),
        ({"model": "my:net", "shortcut_pool": True}, "--shortcut-pool is for fsg's own networks, not my:net: leave"),
        ({"activation_bits": 32, "thresholds": True}, "--thresholds is for one-bit activations: leave it away"),
        ({"activation_bits": 32, "ede_end": 0.5}, "--ede-end is for one-bit activations: leave it away"),
        ({"method": "irnet", "ede_end": 0.5}, "--ede-end is for --activation-gradient polynomial: leave it away"),
        ({"activation_gradient": "clipped", "ede_end": 0.5}, "--ede-end is for --activation-gradient polynomial"),
        ({"ede_end": 1.0}, "ede end is 1.0: it must be below 1"),
        ({"two_stages": 1.0}, "two stages is 1.0: it must be below 1"),
        ({"recalibrate": -1}, "recalibrate is -1: it must be at least 0"),
    ],
)
def test_parts_of_a_recipe_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(FsgError) as error:
        Config(**settings)
    assert message in str(error.value)
    Config(method="irnet", activation_gradient="polynomial", ede_end=0.5, activation_bits=1)
    Config(activation_bits=32, shortcut_pool=True, two_stages=0.5, recalibrate=5)
