"""Profiles of boards: fsg's own, and those of users."""

import json

import pytest

from fsg import FsgError
from fsg.runtime.boards.devices import FIELDS, find_device, load_devices, read_devices

MICROCONTROLLERS = ["cortex-m4", "cortex-m3"]
BOARDS = ("rpi3", "rpi4", "rpi5", "pi-zero-2w", "jetson-orin-nano", "rock5")


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """The folder of the user's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "fsg"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_all_figures_and_their_sources(name):
    device = find_device(name)
    assert all(getattr(device, field) for field in FIELDS)
    assert all(word in device.source for word in ("clock", "cores", "memory: sbc-bench"))
    assert device.machine == "aarch64" and 0.5 < device.clock_ghz < 3 and 1 < device.memory_gb_s < 100


def test_nothing_is_invented():
    devices = load_devices()
    assert list(devices) == [*BOARDS, "aarch64", "pixel6", "pixel8", "android", *MICROCONTROLLERS, "local"]
    for name in ("aarch64", "android", "local"):
        assert devices[name].core == "" and devices[name].clock_ghz is devices[name].memory_gb_s is None
    assert [name for name, device in devices.items() if device.runs == "c"] == MICROCONTROLLERS


def test_devices_of_users_win(config, tmp_path):
    (config / "devices.toml").write_text('[mine]\ncore = "Cortex-A55"\ncores = 2\n[rpi4]\nclock_ghz = 2.1\n')
    extra = tmp_path / "extra.toml"
    extra.write_text("[mine]\nclock_ghz = 1\n")
    mine = find_device("mine")
    assert (mine.core, mine.cores, mine.clock_ghz, mine.label) == ("cortex-a55", 2, None, "mine")
    assert mine.source == str(config / "devices.toml") and mine.machine == "aarch64"
    assert find_device("rpi4").clock_ghz == 2.1 and find_device("rpi4").core == ""
    mine = find_device("mine", extra)
    assert (mine.clock_ghz, mine.cores) == (1, None) and "rpi5" in load_devices(extra)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nclock = 1", r"\[a\] has a field clock; those of a device are label, .*clock_ghz"),
        ("[a]\nclock_ghz = 'fast'", r"\[a\] clock_ghz is 'fast'; give a number above 0"),
        ("[a]\nclock_ghz = nan", r"\[a\] clock_ghz is nan"),
        ("[a]\ncores = 2.5", r"\[a\] cores is 2.5; give a whole number above 0"),
        ("[a]\ncores = true", r"\[a\] cores is True"),
        ("[a]\ncores = 0", r"\[a\] cores is 0"),
        ("[a]\nsystem = 'ios'", r"\[a\] system is 'ios'; give linux or android"),
        ("[a]\ncore = 53", r"\[a\] core is 53; give a text"),
        ("['a b']\ncores = 2", r"\[a b\] is no name for a device"),
        ("cores = 2", r"cores is outside of any device"),
        ("[a", r"no TOML file"),
    ],
)
def test_what_is_no_device_is_refused(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(FsgError, match=message) as caught:
        read_devices(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(FsgError, match=r"missing\.toml: No such file"):
        load_devices(tmp_path / "missing.toml")
    (tmp_path / "latin").write_bytes(b"[a]\nlabel = '\xe4'")
    with pytest.raises(FsgError, match="latin is no TOML file"):
        load_devices(tmp_path / "latin")


def test_the_command_lists_them(fsg, refused):
    code, out, _ = fsg("devices")
    assert code == 0 and all(name in out for name in BOARDS) and "cortex-a72" in out
    code, out, _ = fsg("devices", "rpi5", "--json")
    (device,) = json.loads(out)
    assert (device["name"], device["clock_ghz"]) == ("rpi5", 2.4)
    assert "raspberrypi.com" in fsg("devices", "rpi3")[1]
    assert "no device is called rpi6; there are rpi3, rpi4" in refused("devices", "rpi6")
