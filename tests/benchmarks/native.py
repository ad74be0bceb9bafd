"""Builds and runs the programs that measure the kernels, on this machine and for aarch64 under qemu."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from compiled import DELEGATE, INCLUDE, NATIVE, ZIG, built, product

HERE = Path(__file__).parent
FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-g0", "-fno-exceptions", "-fno-rtti", *INCLUDE]
HOST, BOARD = f"{platform.machine()}-linux-gnu.2.17", "aarch64-linux-gnu.2.17"  # as the product: zig has its C library
SYSROOT = Path("/usr/aarch64-linux-gnu")
os.environ.setdefault("QEMU_LD_PREFIX", str(SYSROOT))  # where the emulator finds that of aarch64
NEON = ("neon-a53", "neon-a72")


def build_driver(target: str = HOST) -> Path:
    """kernels_driver.cc and its parts, with the kernels it drives."""
    sources = [*sorted(HERE.glob("kernels_*.cc")), *product("kernels/**/*.cc")]
    flags = ["-target", target, *FLAGS, "-pthread", "-nostdlib++"]
    return built(sources, [*ZIG, "c++", *flags, *sources])


def build_litert_driver() -> Path:
    """litert_driver.cc for an aarch64 board."""
    source = HERE / "litert_driver.cc"
    return built([source], [*ZIG, "c++", "-target", BOARD, *FLAGS, "-nostdlib++", source, "-ldl"])


def build_delegate() -> Path:
    """The delegate for an aarch64 board."""
    sources, library = product(*DELEGATE), ["-shared", "-fPIC", "-pthread", "-fvisibility=hidden"]
    return built(sources, [*ZIG, "c++", "-target", BOARD, *FLAGS, "-nostdlib++", *library, *sources])


def build_plugin() -> Path:
    """count_instructions.c for this machine's qemu."""
    source = NATIVE / "emulator" / "count_instructions.c"
    return built([source], [*ZIG, "cc", "-shared", "-fPIC", "-O2", source])


def find_emulator() -> str | None:
    return shutil.which("qemu-aarch64") if (SYSROOT / "lib").is_dir() else None


def find_mca() -> str | None:
    return next(filter(None, map(shutil.which, ("llvm-mca", "llvm-mca-19", "llvm-mca-14"))), None)


def conv_arguments(shape: str, output: str = "float") -> list[str]:
    """The driver's arguments for "56x56x64:64", optionally followed by "k5" (filter 5x5) and "s2" (stride 2)."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+):(\d+)(?:k(\d+))?(?:s(\d+))?", shape)
    if match is None:
        raise SystemExit(f"{shape} is no shape: write HEIGHTxWIDTHxCHANNELS:CHANNELS, for example 28x28x128:128")
    height, width, channels_in, channels_out, kernel, stride = match.groups()
    return [height, width, channels_in, channels_out, kernel or "3", stride or "1", output]


def conv_macs(arguments: list[str]) -> int:
    """Binary multiply-accumulates of one convolution."""
    height, width, channels_in, channels_out, kernel, stride = map(int, arguments[:6])
    return -(-height // stride) * -(-width // stride) * channels_in * channels_out * kernel**2


def count_instructions(emulator: str, plugin: Path, driver: Path, command: str, kernels: str, *shape: str) -> int:
    """Instructions of one repetition, as the difference that two more make."""

    def executed(repetitions: int) -> int:
        program = [str(driver), command, kernels, "1", str(repetitions), *shape]
        child = subprocess.run(
            [emulator, "-plugin", str(plugin), *program], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return int(child.stderr.split()[0])

    return (executed(3) - executed(1)) // 2


def loop_cycles(mca: str, kernels: str, cpu: str) -> float:
    """Binary multiply-accumulates per cycle of a NEON set's innermost loop, as llvm-mca predicts for a processor."""
    source = NATIVE / "kernels" / f"{kernels.replace('-', '_')}.cc"
    assembly = built([source], [*ZIG, "c++", "-target", BOARD, *FLAGS, "-S", source])
    loop, pixels = _innermost_loop(assembly.read_text())
    rounds = 200
    report = subprocess.run(
        [mca, "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={rounds}"],
        input=loop,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cycles = re.search(r"Total Cycles:\s+(\d+)", report)
    assert cycles is not None, report
    return pixels * 8 * 128 * rounds / int(cycles[1])


def _innermost_loop(assembly: str) -> tuple[str, int]:
    """The loop with the most counts: 8 for each pixel of a whole tile, 16 bytes of its patch a round."""
    loops = re.findall(r"^(\.LBB\w+):(.*?\n\s+b\.\w+\s+\1)\n", assembly, re.DOTALL | re.MULTILINE)
    bodies = [body for _, body in loops if not re.search(r"^\.LBB", body, re.MULTILINE)]
    body = max(bodies, key=lambda text: len(re.findall(r"\bcnt\b", text)))
    lines = [line for line in body.splitlines() if re.match(r"\s+[a-z]", line)]
    return "\n".join(lines) + "\n", len(re.findall(r"\bcnt\b", body)) // 8
