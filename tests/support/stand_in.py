"""What stands in for the native benchmark program, a shell script; and for its processor, an emulator."""

from pathlib import Path

import blocks

from fsg.runtime.library import Target

PROGRAM = """#!/bin/sh
if [ "$1" = facts ]; then
  echo '{"version": 1, "cpu": "Cortex-A72", "governor": "ondemand", "temperature_c": 81.2, "throttled": 0, "load": 0.1}'
  exit
fi
if grep -q slow model.tflite; then exec sleep 60; fi
echo "fsg: run 1/2" >&2
echo '{"version": 1, "first_us": 900.5, "times_us": [100, 300], "peak_rss_bytes": 9, "base_rss_bytes": 4,'
echo '"ops": [], "partitions": [],'
echo "\\"kernels\\": \\"$*\\"}"
"""


def stand_in_target(folder: Path, machine: str) -> Target:
    """What is sent to boards of that kind, written into a folder."""
    program, delegate = folder / "program", folder / "delegate"
    program.write_text(PROGRAM)
    delegate.write_bytes(b"\x7fELF")
    return Target(machine, program, delegate)


def emulator_words(folder: Path) -> str:
    """What runs a program for aarch64 on a system that looks like a board."""
    root = folder / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(blocks.CPU_INFO)
    (root / "lib").symlink_to(blocks.SYSROOT / "lib")
    return f"{blocks.native.find_emulator()} -cpu cortex-a72 -L {root}"
