"""The program for boards, emulated: what it says of them, and the energy it reads from their sensors."""

import json
import subprocess

import lce
import numpy as np
import pytest

from fsg.runtime.boards.devices import find_device
from fsg.runtime.boards.litert import runtime_library
from fsg.runtime.library import target
from fsg.runtime.measure import on_board as remote
from fsg.runtime.measure.emulate import CPU_INFO, SYSROOT, why_not

needs_emulator = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def program(root, *arguments):
    """The program's answer on a board whose files are below `root`."""
    put(root, "board/proc/cpuinfo", CPU_INFO)
    (root / "board" / "lib").symlink_to(SYSROOT / "lib")
    words = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(root / "board"), "-E", f"FSG_FACTS_ROOT={root}"]
    command = [*words, str(target("aarch64").program), *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@needs_emulator
@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["0xd05", "0xd05", "0xd0b"], "Cortex-A76 + Cortex-A55"),
        (["0xd08", "0xd03"], "Cortex-A72 + Cortex-A53"),
        (["0xd08"] * 4, "Cortex-A72"),
        (["0xfff"], "0xfff"),
        ([], None),
    ],
)
def test_all_kinds_of_cores_are_named(tmp_path, parts, name):
    put(tmp_path, "proc/cpuinfo", "\n".join(f"processor\t: {i}\nCPU part\t: {part}\n" for i, part in enumerate(parts)))
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil")
    facts = program(tmp_path, "facts")
    assert (facts["cpu"], facts["governor"], facts["temperature_c"]) == (name, "schedutil", None)


def test_a_board_with_two_kinds_of_cores_is_itself():
    facts = {"cpu": "Cortex-A76 + Cortex-A55", "governor": "performance"}
    assert remote.doubts(facts, facts, find_device("rock5")) == []
    assert remote.doubts(facts, facts, find_device("rpi4"))


SENSORS = {
    "power": ({"hwmon2/power1_input": 4_000_000}, 4.0),
    "INA3221": ({"hwmon0/temp1_input": 50, "hwmon1/in1_input": 5000, "hwmon1/curr1_input": 600}, 3.0),
    "none": ({"hwmon0/temp1_input": 50}, None),
    "a counter that stands still": ({"hwmon0/energy1_input": 77}, None),
}


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("sensor", SENSORS)
def test_energy_is_power_times_time(tmp_path, sensor):
    files, watts = SENSORS[sensor]
    for path, value in files.items():
        put(tmp_path, f"sys/class/hwmon/{path}", value)
    model = tmp_path / "model.tflite"
    graph = lce.Graph()
    source = graph.tensor((1, 4, 4, 32))
    model.write_bytes(graph.build([source], [graph.dequantize(graph.quantize(source), 32)]))
    libraries = ("--runtime", str(runtime_library("aarch64")), "--delegate", str(target("aarch64").delegate))
    answer = program(tmp_path, "run", str(model), *libraries, "--runs", "5")
    mean_ms = np.mean(answer["times_us"]) / 1e3
    assert answer["energy_mj"] == (None if watts is None else pytest.approx(watts * mean_ms, rel=1e-3))
