"""The rooms of runtime/native: which may include which, and no circle of includes."""

import graphlib
import re
from pathlib import Path

import pytest
from compiled import NATIVE

# The emulator's counter, the benchmark program and what it starts with on Android stand alone, but for the events of a
# profile.
MAY_INCLUDE = {
    "kernels": {"kernels"},
    "delegate": {"delegate", "kernels"},
    "benchmark": {"benchmark", "delegate"},
    "bionic": {"bionic"},
    "emulator": {"emulator"},
}
FILES = [file for file in sorted(NATIVE.rglob("*")) if file.suffix in (".c", ".cc", ".h")]


def included(file: Path) -> list[str]:
    lines = re.findall(r'^\s*#\s*include\s+(["<])([^">]+)', file.read_text(), re.MULTILINE)
    return [header for mark, header in lines if mark == '"' or (NATIVE / header).exists()]


def test_every_file_has_a_room():
    assert {file.relative_to(NATIVE).parts[0] for file in FILES} == set(MAY_INCLUDE)


@pytest.mark.parametrize("room", MAY_INCLUDE)
def test_rooms_include_only_what_they_may(room):
    wrong = [
        f"{file.relative_to(NATIVE)} includes {header}"
        for file in FILES
        if file.relative_to(NATIVE).parts[0] == room
        for header in included(file)
        if Path(header).parts[0] not in MAY_INCLUDE[room] or not (NATIVE / header).exists()
    ]
    assert not wrong


def test_no_circle_of_includes():
    arrows = {str(file.relative_to(NATIVE)): included(file) for file in FILES}
    assert arrows["kernels/kernels_body.h"]  # the lines are found
    graphlib.TopologicalSorter(arrows).prepare()  # CycleError names the files


def test_only_the_profile_of_the_delegate_is_the_benchmarks():
    headers = {header for file in (NATIVE / "benchmark").rglob("*") for header in included(file)}
    assert {header for header in headers if header.startswith("delegate/")} == {"delegate/profile.h"}
