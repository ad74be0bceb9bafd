"""Compiles the folders native/ with ziglang's compiler; the rest is pyproject.toml.

What runs on boards and phones is built for all of them on any host: `fsg bench` sends it there. The variable
FSG_TARGET of the environment, x86_64 or aarch64, says for which processor the rest is, and makes wheels that say so.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import ziglang
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

MACHINES = ("x86_64", "aarch64")  # baseline instruction sets, faster code is chosen at run time
ANDROID = "android-aarch64"
ROOMS = ("commands", "training", "export", "runtime")
GLIBC = "2.17"  # that of manylinux2014
NATIVE = Path("runtime/native")  # its headers are included by their path below it
FLAGS = ["-O3", "-DNDEBUG", "-g0", "-Wall", "-Wextra", "-I", str(NATIVE)]
SHARED = ["-shared", "-fPIC", "-fvisibility=hidden", "-pthread"]
# No C++ runtime to carry along, and a faster build.
CPLUSPLUS = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-nostdlib++"]
BIONIC = NATIVE / "bionic"
STUBS = Path("build/bionic")  # names of what Android's libraries have, for the linker
HEADERS = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
# bionic's ABI: no bcmp, x18 is the system's, pages of up to 16 KiB; its loader copies no variables into programs.
TARGETS = {
    **{machine: ["-target", f"{machine}-linux-gnu.{GLIBC}"] for machine in MACHINES},
    ANDROID: [
        *("-target", "aarch64-linux-musl", "-nostdlib", "-fPIC", "-ffixed-x18", "-fno-builtin-bcmp", "-DFSG_ANDROID"),
        *(word for kind in ("aarch64-linux-musl", "generic-musl") for word in ("-isystem", str(HEADERS / kind))),
        *(
            "-Wl,-z,max-page-size=16384",
            "-Wl,-z,defs",
            "-Wl,--no-as-needed",
            str(STUBS / "libc.so"),
            str(STUBS / "libdl.so"),
        ),
    ],
}
BIONIC_PROGRAM = ["-pie", "-Wl,--dynamic-linker=/system/bin/linker64"]


def zig(command: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "ziglang", command, *map(str, arguments)]


def target_machine() -> str:
    machine = os.environ.get("FSG_TARGET") or (platform.machine() if platform.system() == "Linux" else "")
    if machine not in MACHINES:
        where = f"FSG_TARGET {machine}" if os.environ.get("FSG_TARGET") else f"{platform.system()} {platform.machine()}"
        raise SystemExit(f"fsg: no native library for {where}; it builds for Linux on {', '.join(MACHINES)}")
    return machine


class Native(Extension):
    """A library or program for one of TARGETS, that of the installation by default."""

    def __init__(self, name: str, sources: list[Path], target: str | None = None, *, is_program: bool = False) -> None:
        headers = {*NATIVE.rglob("*.h"), *BIONIC.iterdir(), *sources[0].parent.glob("*.h")}
        super().__init__(name, sorted(map(str, sources)), depends=sorted(map(str, headers)))
        self.target, self.is_program = target or target_machine(), is_program

    def command(self, output: Path) -> list[str]:
        is_c = self.sources[0].endswith(".c")
        kind = ["-s", *(BIONIC_PROGRAM if self.target == ANDROID else ["-ldl"])] if self.is_program else SHARED
        flags = [*FLAGS, *([] if is_c else CPLUSPLUS), *kind]
        return zig("cc" if is_c else "c++", *TARGETS[self.target], *flags, "-o", output, *self.sources)


class BuildNative(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or True  # as many at a time as there are processors

    def build_extensions(self) -> None:
        STUBS.mkdir(parents=True, exist_ok=True)
        for source in BIONIC.glob("*.S"):
            stub = STUBS / f"{source.stem}.so"
            how = ["-target", "aarch64-linux-musl", "-nostdlib", "-shared", f"-Wl,-soname,{stub.name}"]
            subprocess.run(zig("cc", *how, "-o", stub, source), check=True)
        super().build_extensions()

    def build_extension(self, ext: Native) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
        subprocess.run(ext.command(temporary), check=True)
        temporary.replace(output)

    def copy_extensions_to_source(self) -> None:
        for target in TARGETS:
            Path("runtime/targets", target).mkdir(parents=True, exist_ok=True)
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
    boards = []
    for target in TARGETS:
        start = [BIONIC / "start.cc"] if target == ANDROID else []
        boards += [
            Native(f"fsg.runtime.targets.{target}.libfsg_delegate", delegate, target),
            Native(f"fsg.runtime.targets.{target}.fsg_benchmark", [*benchmark, *start], target, is_program=True),
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
