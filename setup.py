"""Compiles the folders native/ into shared libraries with ziglang's compiler; the rest is pyproject.toml.

The environment variable FSG_TARGET, x86_64 or aarch64, builds for that processor on any host, and wheels that say so.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

LIBRARIES = {
    "fsg.runtime.libfsg_delegate": Path("runtime/native"),
    "fsg.training.libfsg_training": Path("training/native"),
}
MACHINES = ("x86_64", "aarch64")  # baseline instruction sets, faster code is chosen at run time
GLIBC = "2.17"  # that of manylinux2014
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-DNDEBUG", "-g0", "-Wall", "-Wextra"),
    *("-fno-exceptions", "-fno-rtti", "-pthread", "-nostdlib++"),  # no C++ runtime to carry along, and a faster build
]


def target_machine() -> str:
    machine = os.environ.get("FSG_TARGET") or (platform.machine() if platform.system() == "Linux" else "")
    if machine not in MACHINES:
        where = f"FSG_TARGET {machine}" if os.environ.get("FSG_TARGET") else f"{platform.system()} {platform.machine()}"
        raise SystemExit(f"fsg: no native library for {where}; it builds for Linux on {', '.join(MACHINES)}")
    return machine


class BuildNative(build_ext):
    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
        compiler = [sys.executable, "-m", "ziglang", "c++", "-target", f"{target_machine()}-linux-gnu.{GLIBC}"]
        subprocess.run([*compiler, *FLAGS, "-o", str(temporary), *ext.sources], check=True)
        temporary.replace(output)

    def get_ext_filename(self, fullname: str) -> str:
        return f"{Path(*fullname.split('.'))}.so"


class BuildModules(build_py):
    """The folder of this file is the package fsg, but this file is no part of it."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        return [module for module in super().find_package_modules(package, package_dir) if module[1] != "setup"]


class PlatformWheel(bdist_wheel):
    """The libraries have a C interface: one wheel serves every Python 3 of the platform."""

    def get_tag(self) -> tuple[str, str, str]:
        if os.environ.get("FSG_TARGET"):
            return "py3", "none", f"manylinux_{GLIBC.replace('.', '_')}_{target_machine()}"
        return "py3", "none", super().get_tag()[2]


def library(name: str, folder: Path) -> Extension:
    headers = [*folder.glob("*.h"), Path("runtime/native/processor.h")]
    return Extension(name, sources=sorted(map(str, folder.glob("*.cc"))), depends=sorted(map(str, headers)))


setup(
    ext_modules=[library(name, folder) for name, folder in LIBRARIES.items()],
    cmdclass={"build_ext": BuildNative, "build_py": BuildModules, "bdist_wheel": PlatformWheel},
)
