"""The FlexBuffer reader between guard pages: right on valid maps, never outside the bytes it was given."""

import subprocess
import sys
from pathlib import Path

import native


def test_options_reader():
    source = native.NATIVE / "delegate" / "options.cc"
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-nostdlib++", *native.INCLUDE]
    library = native.built([source], [*native.ZIG, "c++", *flags, source])
    program = Path(__file__).parent / "guarded_options.py"
    child = subprocess.run([sys.executable, program, library], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
