"""Compiles runtime/native/ into libfsg_delegate.so with ziglang's compiler; the rest is pyproject.toml."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("runtime/native")
LIBRARY = "libfsg_delegate.so"
TARGETS = {  # glibc 2.17 is that of manylinux2014; baseline instruction sets, faster code is chosen at run time
    ("Linux", "x86_64"): "x86_64-linux-gnu.2.17",
    ("Linux", "aarch64"): "aarch64-linux-gnu.2.17",
}
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-DNDEBUG", "-g0", "-Wall", "-Wextra"),
    *("-fno-exceptions", "-fno-rtti", "-nostdlib++"),  # no C++ runtime to carry along, and a faster build
]


class BuildNative(build_ext):
    def build_extension(self, ext: Extension) -> None:
        machine = (platform.system(), platform.machine())
        if machine not in TARGETS:
            supported = ", ".join(" ".join(pair) for pair in TARGETS)
            raise SystemExit(f"fsg: no native library for {' '.join(machine)} yet; it builds on {supported}")
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
        compiler = [sys.executable, "-m", "ziglang", "c++", "-target", TARGETS[machine]]
        subprocess.run([*compiler, *FLAGS, "-o", str(temporary), *ext.sources], check=True)
        temporary.replace(output)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1], LIBRARY))


class PlatformWheel(bdist_wheel):
    """The library has a C interface: one wheel serves every Python 3 of the platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


delegate = Extension(
    "fsg.runtime.libfsg_delegate",
    sources=sorted(map(str, NATIVE.glob("*.cc"))),
    depends=sorted(map(str, NATIVE.glob("*.h"))),
)
setup(ext_modules=[delegate], cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel})
