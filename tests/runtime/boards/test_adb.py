"""Phones that adb reaches: connections that do not come about, what is given wrongly, and LiteRT out of archives."""

import re
import shutil
import zipfile

import pytest
import records
from hasty import HastyPhone, measure

from fsg import FsgError
from fsg.runtime.boards import litert
from fsg.runtime.boards.devices import find_device
from fsg.runtime.library import target

pytestmark = [
    pytest.mark.usefixtures("scratch", "stand_in"),
    pytest.mark.xdist_group("boards"),  # which mostly wait, and should not be kept waiting by one another
]
NO_PHONE = r"plug it in and enable USB debugging .*`adb devices`"
REFUSALS = [
    ({"PHONE1": "unauthorized"}, "adb:PHONE1", r"device unauthorized; unlock the phone and allow USB debugging"),
    ({"PHONE1": "offline"}, "adb:PHONE1", r"device offline; plug it in again"),
    ({"PHONE1": "old"}, "adb", r"target doesn't support PTY args -Tt; it needs Android 7"),
    ({"PHONE1": "device"}, "adb:PHONE2", rf"device 'PHONE2' not found; {NO_PHONE}"),
    ({}, "adb", rf"no devices/emulators found; {NO_PHONE}"),
    ({"PHONE1": "device", "PHONE2": "device"}, "adb:", r"more than one device/emulator; say which with --host adb:SER"),
]


@pytest.mark.parametrize(("states", "host", "cause"), REFUSALS)
def test_connections_that_do_not_come_about_say_why(phone, refused, tmp_path, states, host, cause):
    phone.states = states
    line = refused("bench", records.model_file(tmp_path / "model.tflite"), "--device", "android", "--host", host)
    assert line.startswith(f"fsg: error: {host}: no connection: ") and re.search(cause, line)


@pytest.mark.parametrize("host", ["adb", "adb:", "adb:PHONE1"])
def test_the_only_phone_needs_no_name(phone, model, host):
    assert measure(HastyPhone(host), model)[0]["host"] == host


@pytest.mark.skipif(not (shutil.which("mksh") and shutil.which("toybox")), reason="mksh or toybox is missing")
def test_the_shell_and_the_commands_of_phones_will_do(phone, model):
    """Android's shell is mksh and its commands are toybox's; nothing else is in reach."""
    for name in ("cat", "mkdir", "rm", "chmod", "kill", "sleep"):
        phone.script(name, f'exec {shutil.which("toybox")} {name} "$@"')
    phone.script("sh", f'exec {shutil.which("mksh")} "$@"')
    assert measure(HastyPhone(phone.host), model)[0]["latency_ms"]["p50"] == 0.2
    assert not phone.leftovers


def test_no_adb_and_adb_that_hangs(phone, model, monkeypatch):
    (phone.adb_folder / "adb").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(FsgError, match="adb:PHONE1: adb does not finish starting its server"):
        measure(HastyPhone("adb:PHONE1", timeout_s=1), model)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FsgError, match="there is no adb on this machine: install adb"):
        measure(HastyPhone("adb:PHONE1"), model)


def test_options_of_ssh_are_refused(phone, refused, model):
    for option in (("-p", "22"), ("-i", "key"), ("-o", "A=b")):
        line = refused("bench", model, *phone.where, *option)
        assert "-p, -i and -o are for ssh: leave them away with --host adb:SERIAL" in line


def test_a_phone_is_no_board_with_linux(phone, virtual, refused, model):
    line = refused("bench", model, "--device", "rpi4", "--host", phone.host)
    assert f"{phone.host} runs Android, but the device rpi4 has Linux: choose another --device" in line
    line = refused("bench", model, "--device", "pixel6", *virtual.where[2:])
    assert f"{virtual.host} runs Linux, but the device pixel6 has Android: choose another --device" in line


def test_devices_say_how_they_are_reached():
    assert (find_device("pixel6").address, find_device("rpi4").address) == ("adb:SERIAL", "USER@HOST")


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Makes an .aar with some files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(files):
        path = tmp_path / "litert.aar"
        with zipfile.ZipFile(path, "w") as aar:
            for name, content in files.items():
                aar.writestr(name, content)
        return path

    return make


LIBRARY = target("aarch64").program.read_bytes()[:64] + litert.C_INTERFACE


def test_litert_comes_out_of_an_archive(archive):
    folder = "jni/arm64-v8a"
    path = archive({f"{folder}/libother.so": LIBRARY[:64], f"{folder}/libtflite.so": LIBRARY, "jni/x86/a.so": b"no"})
    library = litert.runtime_library("aarch64", path, system="android")
    assert library.name == "libtflite.so" and library.read_bytes() == LIBRARY
    assert litert.runtime_library("aarch64", library, system="android") == library


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        (
            {"jni/arm64-v8a/libother.so": LIBRARY[:64]},
            r"holds no library with .*, but jni/arm64-v8a/libother",
        ),
        (
            {"jni/x86_64/libtflite.so": LIBRARY},
            r"holds no library with .*, but nothing for aarch64; give the \.aar",
        ),
        ({"jni/arm64-v8a/a.so": b"MZ" + litert.C_INTERFACE}, r"a\.so is no library for aarch64"),
        (None, r"litert\.aar is no archive that can be read \(.*\); give the \.aar of com\.google\.ai\.edge\.litert:"),
    ],
)
def test_other_archives_are_refused(archive, files, cause):
    path = archive(files or {})
    if files is None:
        path.write_bytes(b"nothing")
    with pytest.raises(FsgError, match=cause):
        litert.runtime_library("aarch64", path, system="android")


def test_without_litert_one_line_says_what_to_get():
    with pytest.raises(FsgError, match=r"LiteRT for Android is not fetched: download .*--runtime-lib FILE"):
        litert.runtime_library("aarch64", system="android")
