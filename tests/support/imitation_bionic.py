"""An imitation of Android's C library, so that the very programs for phones run here: glibc under bionic's names."""

import shutil
import subprocess
import sys
from pathlib import Path

import blocks

SOURCE = Path(__file__).with_suffix(".c")


def android_words(folder: Path) -> str:
    """What runs a program for Android on 64-bit ARM; `folder` is for the system that it finds."""
    root = folder / "android"
    libraries, loader = root / "system" / "lib64", root / "system" / "bin" / "linker64"
    for made in (libraries, loader.parent, root / "proc"):
        made.mkdir(parents=True)
    (root / "lib").symlink_to(blocks.SYSROOT / "lib")
    shutil.copy(blocks.SYSROOT / "lib" / "ld-linux-aarch64.so.1", loader)
    (root / "proc" / "cpuinfo").write_text(blocks.CPU_INFO)
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.17", "-shared", "-fPIC"]
    for name, sources in (("libc.so", [SOURCE]), ("libdl.so", ["-Wl,--no-as-needed", "-ldl", "-x", "c", "/dev/null"])):
        subprocess.run([*zig, f"-Wl,-soname,{name}", "-o", libraries / name, *sources], check=True)
    return f"{blocks.native.find_emulator()} -cpu cortex-a72 -L {root} -E LD_LIBRARY_PATH=/system/lib64"
