"""Builds the native code with sanitizers.

It is instrumented by the compiler that builds the product, ziglang's clang, which has no sanitizers' run time; so it is
linked by Debian's clang, which has (packages clang-19 and libclang-rt-19-dev).
"""

import dataclasses
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compiled import DELEGATE, INCLUDE, ROOT, ZIG, built, product

CLANG = "clang++-19"
MEMORY = ("-fsanitize=address", "-fsanitize=undefined")


@dataclasses.dataclass(frozen=True)
class Target:
    """Sanitizers, what is compiled besides (or instead of) the product's sources, and how it is linked."""

    sanitizers: tuple[str, ...]
    sources: tuple[Path, ...] = ()
    native: tuple[str, ...] = DELEGATE
    link: tuple[str, ...] = ()


HERE = ROOT / "tests" / "native"
DRIVER = tuple(sorted((ROOT / "tests" / "benchmarks").glob("kernels_*.cc")))
FUZZ = (*MEMORY, "-fsanitize=fuzzer-no-link")
TARGETS = {
    "fuzz_options": Target(FUZZ, (HERE / "fuzz_options.cc",), ("delegate/options.cc",), ("-fsanitize=fuzzer",)),
    # The description of a graph holds no magic numbers, and tracing comparisons would halve the speed.
    "fuzz_delegate": Target(
        (*FUZZ, "-fno-sanitize-coverage=trace-cmp"), (HERE / "fuzz_delegate.cc",), link=("-fsanitize=fuzzer",)
    ),
    "kernels_driver": Target(MEMORY, DRIVER, ("kernels/**/*.cc",)),
    "kernels_driver_threads": Target(("-fsanitize=thread",), DRIVER, ("kernels/**/*.cc",)),
    "stress_threads": Target(("-fsanitize=thread",), (HERE / "stress_threads.cc",), ("kernels/threads.cc",)),
    "library": Target(MEMORY, link=("-shared", "-shared-libasan")),
}


def missing() -> str | None:
    """Why the sanitizers cannot be used here, or None."""
    if platform.machine() != "x86_64":
        return "the sanitizers are set up for x86-64 only"
    return None if shutil.which(CLANG) else "no clang++-19: apt-get install clang-19 libclang-rt-19-dev"


def build(name: str) -> Path:
    target = TARGETS[name]
    common = ["-std=c++17", "-O2", "-g1", "-fno-omit-frame-pointer", *target.sanitizers, "-fno-sanitize-recover=all"]
    zig = [*ZIG, "c++", "-target", "x86_64-linux-gnu.2.31", "-fPIC", "-fno-exceptions", "-fno-rtti"]
    compilers = [(source, zig) for source in product(*target.native)] + [(source, [CLANG]) for source in target.sources]

    def compile_one(source: Path, compiler: list[str]) -> Path:
        return built([source], [*compiler, *common, *INCLUDE, "-c", source])

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, *zip(*compilers, strict=True)))
    return built(objects, [CLANG, *target.sanitizers, *target.link, *objects, "-lpthread"])
