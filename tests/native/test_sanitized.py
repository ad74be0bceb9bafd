"""The native code under sanitizers of memory, undefined behaviour and threads; a bounded run of the fuzz targets."""

import os
import subprocess
import sys

import fuzz
import pytest
import sanitized

from fsg.runtime.library import possible_kernels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sanitized.missing() is not None, reason=str(sanitized.missing())),
]

NATIVE = ("delegate", "hostile", "int8")
ROOMS = ("training", "export", "runtime")


@pytest.mark.parametrize(("target", "runs"), [("fuzz_options", 300_000), ("fuzz_delegate", 8_000)])
def test_fuzz_targets_find_nothing(target, runs):
    result = fuzz.fuzz(target, runs)
    assert result.returncode == 0, result.stderr[-6000:]
    assert f"Done {runs} runs" in result.stderr


@pytest.mark.parametrize("kernels", possible_kernels()[:-1])
@pytest.mark.parametrize("target", ["kernels_driver", "kernels_driver_threads"])
def test_kernels_on_random_shapes(target, kernels):
    result = subprocess.run(
        [sanitized.build(target), "check", kernels, "1", "150"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.mark.parametrize("threads", ["2", "5"])
def test_threads_share_loops_without_races(threads):
    command = [sanitized.build("stress_threads"), threads, "30000"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr[-6000:]


def test_operators_in_an_interpreter(tmp_path):
    """Python's tests of the delegate, on a copy of the package that holds the sanitized library."""
    package = tmp_path / "fsg"
    for source in [
        *sanitized.ROOT.glob("*.py"),
        *(file for room in ROOMS for file in sanitized.ROOT.glob(f"{room}/**/*")),
    ]:
        name = source.relative_to(sanitized.ROOT)
        if source.is_file() and not {"native", "targets", "__pycache__"} & {*name.parts}:
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).symlink_to(source)
    target = package / "runtime" / "targets" / "x86_64"
    target.mkdir(parents=True)
    (target / "libfsg_delegate.so").symlink_to(sanitized.build("library"))
    (target / "fsg_benchmark").symlink_to(sanitized.ROOT / "runtime" / "targets" / "x86_64" / "fsg_benchmark")
    runtime = subprocess.run(
        [sanitized.CLANG, "-print-file-name=libclang_rt.asan-x86_64.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # the interpreter of Python itself leaks
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    tests = [sanitized.ROOT / "tests" / "runtime" / "native" / f"test_{name}.py" for name in NATIVE]
    check = "import fsg.runtime, sys; sys.exit(not fsg.runtime.library.delegate_path().startswith(sys.argv[1]))"
    for command in (["-c", check, tmp_path], ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]):
        child = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
        assert child.returncode == 0, (child.stdout + child.stderr)[-6000:]
