"""The FlexBuffer reader between guard pages: right on valid maps, never outside the bytes it was given."""

import subprocess
import sys
from pathlib import Path


def test_options_reader(tmp_path):
    here = Path(__file__).parent
    root = here.parents[1] / "runtime" / "native"
    library = tmp_path / "options.so"
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-nostdlib++", "-I", root, "-o", library]
    subprocess.run([sys.executable, "-m", "ziglang", "c++", *flags, root / "delegate" / "options.cc"], check=True)
    child = subprocess.run(
        [sys.executable, here / "guarded_options.py", library], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
