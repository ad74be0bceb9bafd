"""The very program and delegate that phones get: what they ask of Android's loader, and a run on an imitation of it."""

import json
import re
import struct
import subprocess
from pathlib import Path

import elf
import pytest
import records
from imitation_bionic import android_words
from stand_in_phone import StandInPhone

from fsg.runtime.boards.litert import runtime_library
from fsg.runtime.library import target
from fsg.runtime.measure.emulate import why_not

NATIVE = Path(__file__).parents[3] / "runtime" / "native"
ANDROID = target("aarch64", "android")
FILES = pytest.mark.parametrize("path", [ANDROID.program, ANDROID.delegate], ids=["program", "delegate"])
needs_emulator = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@FILES
def test_androids_loader_takes_it(path):
    """It needs libraries of Android alone, loads on pages of 16 KiB, and wants nothing that bionic's linker lacks."""
    library = elf.read(path)
    assert library.machine == "aarch64" and library.versions == set()
    assert library.needed == {"libc.so", "libdl.so"}
    data = path.read_bytes()
    kind, (offset,) = struct.unpack_from("<H", data, 16)[0], struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", data, offset + i * size) for i in range(count)]
    loaded = [segment for segment in segments if segment[0] == 1]
    assert kind == 3  # position-independent
    assert all(alignment == 1 << 14 and not (flags & 1 and flags & 2) for _, flags, *_, alignment in loaded)
    assert not [segment for segment in segments if segment[0] == 7]  # thread-local variables
    interpreters = [elf.string(data, segment[2]) for segment in segments if segment[0] == 3]
    assert interpreters == (["/system/bin/linker64"] if path == ANDROID.program else [])


@FILES
def test_it_asks_for_known_functions_of_bionic_alone(path):
    known = set()
    for name in ("libc.S", "libdl.S"):
        text = re.sub(r"//.*", "", (NATIVE / "bionic" / name).read_text()).replace("\\\n", "")
        known |= {word for names in re.findall(r"\.irp name,(.*)", text) for word in names.replace(",", " ").split()}
    asked = elf.undefined(path)
    assert len(asked) > 20 and asked <= known
    assert "__errno_location" not in asked and "bcmp" not in asked


@needs_emulator
def test_the_program_starts_and_fails_as_it_should(tmp_path):
    words = [*android_words(tmp_path).split(), str(ANDROID.program)]
    facts = json.loads(subprocess.run([*words, "facts"], capture_output=True, check=True).stdout)
    assert (facts["machine"], facts["cpu"], facts["bits"]) == ("aarch64", "Cortex-A72", 64)
    assert facts["cores"] > 0 and facts["load"] >= 0 and facts["memory_free_bytes"] > 0
    child = subprocess.run([*words, "run", "/none", "--runtime", "x"], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (2, "fsg_benchmark: /none: No such file or directory\n")


@needs_emulator
def test_a_phone_is_measured(fsg, tmp_path, monkeypatch):
    """All of a measurement: adb's stand-in, Android's binaries, and LiteRT for glibc on the imitation of bionic."""
    library = runtime_library("aarch64")
    phone = StandInPhone(tmp_path / "phone", emulator=android_words(tmp_path))
    monkeypatch.setenv("PATH", str(phone.adb_folder), prepend=":")
    model = records.model_file(tmp_path / "model.tflite")
    how = ["--runtime-lib", library, "--threads", "1,2", "--runs", "3", "--profile", "--json", "-"]
    code, out, err = fsg("bench", model, *phone.where, *how)
    assert code == 0, err
    found = json.loads(out)
    records.validate(found)
    assert [(record["kind"], record["host"], record["device"]) for record in found] == [
        ("measured", "adb:PHONE1", "android")
    ] * 2
    for record in found:
        assert (record["kernels"], record["cpu"], record["runs"]) == ("neon-a72", "Cortex-A72", 3)
        assert any("LceBconv2d" in op["kind"] + op["name"] for op in record["ops"])
    assert not phone.leftovers
