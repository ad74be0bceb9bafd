"""Compiles the folders native/ with ziglang's compiler; the rest is pyproject.toml.

What runs on boards is built for all of them on any host: `fsg bench` sends it there. The environment variable
FSG_TARGET, x86_64 or aarch64, says for which processor the rest is, and makes wheels that say so.
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

MACHINES = ("x86_64", "aarch64")  # baseline instruction sets, faster code is chosen at run time
ROOMS = ("commands", "training", "export", "runtime")
GLIBC = "2.17"  # that of manylinux2014
NATIVE = Path("runtime/native")  # its headers are included by their path below it
FLAGS = ["-O3", "-DNDEBUG", "-g0", "-Wall", "-Wextra", "-I", str(NATIVE)]
SHARED = ["-shared", "-fPIC", "-fvisibility=hidden", "-pthread"]
# No C++ runtime to carry along, and a faster build.
CPLUSPLUS = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-nostdlib++"]


def target_machine() -> str:
    machine = os.environ.get("FSG_TARGET") or (platform.machine() if platform.system() == "Linux" else "")
    if machine not in MACHINES:
        where = f"FSG_TARGET {machine}" if os.environ.get("FSG_TARGET") else f"{platform.system()} {platform.machine()}"
        raise SystemExit(f"fsg: no native library for {where}; it builds for Linux on {', '.join(MACHINES)}")
    return machine


class Native(Extension):
    """A library or program for one kind of machine, that of the installation by default."""

    def __init__(self, name: str, sources: list[Path], machine: str | None = None, *, is_program: bool = False) -> None:
        headers = {*NATIVE.rglob("*.h"), *sources[0].parent.glob("*.h")}
        super().__init__(name, sorted(map(str, sources)), depends=sorted(map(str, headers)))
        self.machine, self.is_program = machine or target_machine(), is_program

    def command(self, output: Path) -> list[str]:
        is_c = self.sources[0].endswith(".c")
        flags = [*FLAGS, *([] if is_c else CPLUSPLUS), *(["-s", "-ldl"] if self.is_program else SHARED)]
        target = ["-target", f"{self.machine}-linux-gnu.{GLIBC}"]
        return [
            sys.executable,
            "-m",
            "ziglang",
            "cc" if is_c else "c++",
            *target,
            *flags,
            "-o",
            str(output),
            *self.sources,
        ]


class BuildNative(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or True  # as many at a time as there are processors

    def build_extension(self, ext: Native) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
        subprocess.run(ext.command(temporary), check=True)
        temporary.replace(output)

    def copy_extensions_to_source(self) -> None:
        for machine in MACHINES:
            Path("runtime/targets", machine).mkdir(parents=True, exist_ok=True)
        super().copy_extensions_to_source()

    def get_ext_filename(self, fullname: str) -> str:
        programs = {ext.name.rpartition(".")[2] for ext in self.extensions if ext.is_program}
        suffix = "" if fullname.rpartition(".")[2] in programs else ".so"
        return f"{Path(*fullname.split('.'))}{suffix}"


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


def natives() -> list[Native]:
    delegate = [source for room in ("kernels", "delegate") for source in NATIVE.joinpath(room).rglob("*.cc")]
    benchmark = list(NATIVE.joinpath("benchmark").rglob("*.cc"))
    boards = [
        native
        for machine in MACHINES
        for native in (
            Native(f"fsg.runtime.targets.{machine}.libfsg_delegate", delegate, machine),
            Native(f"fsg.runtime.targets.{machine}.fsg_benchmark", benchmark, machine, is_program=True),
        )
    ]
    return [
        *boards,
        Native("fsg.runtime.libcount_instructions", list(NATIVE.joinpath("emulator").rglob("*.c"))),
        Native("fsg.training.scan.libfsg_training", list(Path("training/scan/native").rglob("*.cc"))),
    ]


def packages() -> list[str]:
    """Every folder of the rooms that says it is one, by its __init__.py."""
    files = (file for room in ROOMS for file in sorted(Path(room).rglob("__init__.py")))
    return ["fsg", *(f"fsg.{file.parent.as_posix().replace('/', '.')}" for file in files)]


setup(
    packages=packages(),
    ext_modules=natives(),
    cmdclass={"build_ext": BuildNative, "build_py": BuildModules, "bdist_wheel": PlatformWheel},
)
