"""Wheels for both processors from one host: what they hold and what they ask of the machine that installs them."""

import os
import subprocess
import sys

import elf
import pytest

MACHINES = ["x86_64", "aarch64"]


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_wheels_for_any_machine_from_this_one(machine, clean_source, tmp_path):
    build = [sys.executable, "setup.py", "--quiet", "build", "--build-base", tmp_path / "build"]
    environment = {**os.environ, "FSG_TARGET": machine}
    subprocess.run(
        [*build, "bdist_wheel", "--dist-dir", tmp_path / "dist"], cwd=clean_source, env=environment, check=True
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-manylinux_2_17_{machine}.whl")

    # As an owner of that machine would, with neither a compiler nor this host's own wheels in reach.
    platform = ["--platform", f"manylinux_2_17_{machine}", "--only-binary=:all:", "--implementation", "py"]
    offline = ["--no-deps", "--no-index", "--target", tmp_path / "site"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", *platform, *offline, wheel]
    subprocess.run(install, env={"PATH": str(tmp_path)}, check=True)
    boards = [(f"runtime/targets/{m}/{name}", m) for m in MACHINES for name in ("fsg_benchmark", "libfsg_delegate.so")]
    for name in ("fsg_benchmark", "libfsg_delegate.so"):  # for phones, too
        phone = elf.read(tmp_path / "site" / "fsg" / "runtime/targets/android-aarch64" / name)
        assert (phone.machine, phone.needed, phone.versions) == ("aarch64", {"libc.so", "libdl.so"}, set())
    own = [(name, machine) for name in ("runtime/libcount_instructions.so", "training/scan/libfsg_training.so")]
    for name, built_for in boards + own:
        library = elf.read(tmp_path / "site" / "fsg" / name)
        assert library.machine == built_for
        system = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"}
        assert library.needed <= {*system, "ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2"}
        assert library.versions
        assert max(tuple(map(int, v.removeprefix("GLIBC_").split("."))) for v in library.versions) <= (2, 17)


@pytest.mark.parametrize("machine", ["riscv64", "x86-64"])
def test_an_unknown_target_is_refused(machine, clean_source, tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", tmp_path]
    environment = {**os.environ, "FSG_TARGET": machine}
    result = subprocess.run(command, cwd=clean_source, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    message = f"fsg: no native library for FSG_TARGET {machine}; it builds for Linux on x86_64, aarch64"
    assert result.stderr.strip().endswith(message), result.stderr
