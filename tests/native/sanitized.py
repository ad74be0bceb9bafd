"""Builds the native code with sanitizers.

It is instrumented by the compiler that builds the product, ziglang's clang, which has no sanitizers' run time; so it is
linked by Debian's clang, which has (packages clang-19 and libclang-rt-19-dev).
"""

import dataclasses
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "runtime" / "native"
CLANG = "clang++-19"
MEMORY = ("-fsanitize=address", "-fsanitize=undefined")


@dataclasses.dataclass(frozen=True)
class Target:
    """Sanitizers, what is compiled besides (or instead of) the product's sources, and how it is linked."""

    sanitizers: tuple[str, ...]
    sources: tuple[Path, ...] = ()
    native: tuple[str, ...] = ("kernels/**/*.cc", "delegate/**/*.cc")
    link: tuple[str, ...] = ()


HERE = ROOT / "tests" / "native"
DRIVER = ROOT / "tests" / "benchmarks" / "kernels_driver.cc"
FUZZ = (*MEMORY, "-fsanitize=fuzzer-no-link")
TARGETS = {
    "fuzz_options": Target(FUZZ, (HERE / "fuzz_options.cc",), ("delegate/options.cc",), ("-fsanitize=fuzzer",)),
    # The description of a graph holds no magic numbers, and tracing comparisons would halve the speed.
    "fuzz_delegate": Target(
        (*FUZZ, "-fno-sanitize-coverage=trace-cmp"), (HERE / "fuzz_delegate.cc",), link=("-fsanitize=fuzzer",)
    ),
    "kernels_driver": Target(MEMORY, (DRIVER,), ("kernels/**/*.cc",)),
    "kernels_driver_threads": Target(("-fsanitize=thread",), (DRIVER,), ("kernels/**/*.cc",)),
    "stress_threads": Target(("-fsanitize=thread",), (HERE / "stress_threads.cc",), ("kernels/threads.cc",)),
    "library": Target(MEMORY, link=("-shared", "-shared-libasan")),
}


def missing() -> str | None:
    """Why the sanitizers cannot be used here, or None."""
    if platform.machine() != "x86_64":
        return "the sanitizers are set up for x86-64 only"
    return None if shutil.which(CLANG) else "no clang++-19: apt-get install clang-19 libclang-rt-19-dev"


def build(name: str, output: Path) -> Path:
    target = TARGETS[name]
    native = [source for pattern in target.native for source in sorted(NATIVE.glob(pattern))]
    common = [
        "-std=c++17",
        "-I",
        NATIVE,
        "-O2",
        "-g1",
        "-fno-omit-frame-pointer",
        *target.sanitizers,
        "-fno-sanitize-recover=all",
    ]
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", "x86_64-linux-gnu.2.31", "-fPIC", "-fno-exceptions"]
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / f"{i}.o" for i in range(len(native) + len(target.sources))]
        own = [[*zig, "-fno-rtti", *common, "-c", source, "-o", o] for source, o in zip(native, objects, strict=False)]
        rest = objects[len(native) :]
        tests = [[CLANG, *common, "-c", source, "-o", o] for source, o in zip(target.sources, rest, strict=True)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda command: subprocess.run(command, check=True), [*own, *tests]))
        output.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([CLANG, *target.sanitizers, *target.link, *objects, "-lpthread", "-o", output], check=True)
    return output
