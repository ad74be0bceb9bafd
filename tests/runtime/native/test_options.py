"""The FlexBuffer reader between guard pages: right on valid maps, never outside the bytes it was given."""

import subprocess
import sys
from pathlib import Path

import compiled


def test_options_reader():
    source = compiled.NATIVE / "delegate" / "options.cc"
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-nostdlib++", *compiled.INCLUDE]
    library = compiled.built([source], [*compiled.ZIG, "c++", *flags, source])
    program = Path(compiled.__file__).with_name("guarded_options.py")
    child = subprocess.run([sys.executable, program, library], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
