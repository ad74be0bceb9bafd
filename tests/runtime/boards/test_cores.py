"""cores.toml is the one list of cores: what C++ repeats of it agrees, and boards and devices name cores that it has."""

import re
from pathlib import Path

from fsg.runtime.boards.cores import cores
from fsg.runtime.boards.devices import load_devices

NATIVE = Path(__file__).parents[3] / "runtime" / "native"


def test_the_program_for_boards_knows_the_same_names():
    source = (NATIVE / "benchmark" / "facts.cc").read_text()
    table = re.search(r"kCores\[\] = \{(.*?)\};", source, re.DOTALL)[1]
    known = {int(part, 16): label for part, label in re.findall(r'\{(0x\w+), "([^"]+)"\}', table)}
    assert known == {core.part: core.label for core in cores().values()}
    assert list(known) == [core.part for core in cores().values()]  # the slower before the faster


def test_the_kernels_know_the_same_cores_in_order():
    source = (NATIVE / "kernels" / "processor.h").read_text()
    parts = re.search(r"kCortex\[\] = \{(.*?)\};", source)[1]
    assert {int(part, 16) for part in parts.split(",")} == {core.part for core in cores().values() if core.in_order}


def test_names_are_labels_and_devices_have_known_cores():
    assert all(core.name == core.label.lower() for core in cores().values())
    assert {
        device.core for device in load_devices().values() if device.core and device.runs == "tflite"
    } <= cores().keys()
