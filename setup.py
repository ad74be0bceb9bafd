"""Compiles runtime/native/ into libfsg_delegate.so with ziglang's compiler; the rest is pyproject.toml."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

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


class BuildModules(build_py):
    """The folder of this file is the package fsg, but this file is no part of it."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [module for module in super().find_package_modules(package, package_dir) if module[1] != "setup"]


class PlatformWheel(bdist_wheel):
    """The library has a C interface: one wheel serves every Python 3 of the platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


delegate = Extension(
    "fsg.runtime.libfsg_delegate",
    sources=sorted(map(str, NATIVE.glob("*.cc"))),
    depends=sorted(map(str, NATIVE.glob("*.h"))),
)
setup(
    ext_modules=[delegate], cmdclass={"build_ext": BuildNative, "build_py": BuildModules, "bdist_wheel": PlatformWheel}
)
