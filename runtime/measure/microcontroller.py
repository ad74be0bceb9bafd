"""Runs a model.c on an emulated microcontroller: whether its results are right there, and the memory that it takes."""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fsg
from fsg import FsgError
from fsg.runtime.boards.devices import Device
from fsg.runtime.library import COUNTER
from fsg.runtime.measure.records import Emulated, Record, as_record
from fsg.runtime.model.c import CompiledModel, zig
from fsg.runtime.model.metadata import sizes_of

_BOARDS = {
    "armv7-m": ("cortex-m3", "mps2-an385", "cortex_m3", "eabi"),
    "armv7e-m": ("cortex-m4", "mps2-an386", "cortex_m4+vfp4d16sp", "eabihf"),
}
"""For each of `devices.MICROCONTROLLERS` a core, the emulator's board with it, and what a compiler is told."""
_SOURCES = Path(fsg.__file__).parent / "runtime" / "boards" / "mps2"
_EXACT = ("-std=c99", "-ffp-contract=off")
IMAGES = 3


def emulate_c(path: Path, device: Device) -> Record:
    """Compiles a model.c for size, as for a microcontroller, and runs it under qemu-system-arm.

    The results are compared bit for bit with those of the same C on this machine, both without fused multiplication
    and addition; the functions of math.h are each side's own, so that networks which need them may differ.

    Returns:
        A record of kind "emulated": flash_bytes of constants and code, with the few hundred bytes that start it and
        talk to the emulator; ram_bytes of the arena and the stack, beside the image and the result; instructions.

    Raises:
        FsgError: something is missing here, or the program does not compile, fit or run.
    """
    artefact, path = path, path.resolve()
    core, board, *_ = _BOARDS[device.machine]
    if shutil.which("qemu-system-arm") is None:
        raise FsgError(f"{artefact}: not emulated: there is no qemu-system-arm: apt-get install qemu-system-arm")
    model = CompiledModel(path, flags=_EXACT)
    rng, size = np.random.default_rng(0), (IMAGES, model.image.size)
    is_whole = model.image.dtype == np.uint8
    images = rng.integers(0, 256, size, np.uint8) if is_whole else rng.standard_normal(size, np.float32)
    with tempfile.TemporaryDirectory(prefix="fsg-emulated-") as name:
        folder = Path(name)
        compile_for(device.machine, [_SOURCES / "run.c", path], folder / "program")
        sections = section_sizes((folder / "program").read_bytes())
        machine = ["qemu-system-arm", "-machine", board, "-display", "none", "-monitor", "none", "-serial", "none"]
        machine += ["-semihosting-config", "enable=on,target=native", "-plugin", str(COUNTER), "-kernel", "program"]
        counts = []
        for count in (1, IMAGES):
            (folder / "images").write_bytes(images[:count].tobytes())
            done = _run(machine, folder, path)
            counts.append(int(done.stderr.split()[-2]))
        content = (folder / "results").read_bytes()
    found = np.frombuffer(content[:-4], np.float32).reshape(IMAGES, -1)
    (stack,) = struct.unpack("<I", content[-4:])
    expected = model.flat(images)
    differing = int(np.sum(found.view(np.uint32) != expected.view(np.uint32)))
    header = sizes_of(path)
    ram = sum(size for name, size in sections.items() if name.startswith((".bss", ".data")))
    return as_record(
        Emulated(
            artefact=str(artefact),
            format="c",
            device=device.name,
            cpu=core,
            kernels="C",
            threads=1,
            bit_exact=differing == 0,
            differing=differing,
            host_difference=float(np.abs(found - expected).max()) / (float(np.abs(expected).max()) or 1.0),
            host_same_top1=float(np.mean(found.argmax(1) == expected.argmax(1))),
            instructions=(counts[1] - counts[0]) // (IMAGES - 1),
            flash_bytes=sum(size for name, size in sections.items() if not name.startswith(".bss")),
            ram_bytes=ram + stack - images[0].nbytes - found[0].nbytes,
            size_bytes=header["size_bytes"],
            arena_bytes=header["arena_bytes"],
        )
    )


def compile_for(machine: str, sources: Sequence[Path], output: Path) -> None:
    """Makes a program for the emulator's board of a kind of microcontroller, compiled for size. The last source is a
    model.c. Errors: FsgError with the compiler's first complaint."""
    *_, processor, abi = _BOARDS[machine]
    flags = (*_EXACT, "-Os", "-ffunction-sections", "-fno-unwind-tables", "-target", f"thumb-freestanding-{abi}")
    link = ("-Wl,--gc-sections", "-Wl,-e,fsg_reset", "-T", str(_SOURCES / "board.ld"), "-o", str(output))
    path = sources[-1]
    words = (f"-mcpu={processor}", *headers(), f"-I{path.parent}", *map(str, sources), *link)
    _run([*zig(), *flags, *words], output.parent, path)


def headers() -> list[str]:
    """Words for zig's compiler: where the headers of a C library for such cores are. Errors: FsgError without zig."""
    found = find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        raise FsgError("not emulated: there is no compiler for a microcontroller: pip install ziglang")
    folder = Path(found.submodule_search_locations[0]) / "lib" / "libc" / "include"
    return [word for name in ("generic-musl", "arm-linux-musl") for word in ("-isystem", str(folder / name))]


def _run(command: list[str], folder: Path, path: Path) -> "subprocess.CompletedProcess[str]":
    how: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    done = subprocess.run(command, cwd=folder, env=os.environ, check=False, **how)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise FsgError(f"{path}: for a microcontroller: {lines[0] if lines else f'exit code {done.returncode}'}")
    return done


def section_sizes(program: bytes) -> dict[str, int]:
    """Bytes of each section of a 32-bit ELF file that takes memory."""
    (start,) = struct.unpack_from("<I", program, 32)
    size, count, names = struct.unpack_from("<3H", program, 46)
    headers = [struct.unpack_from("<10I", program, start + i * size) for i in range(count)]
    texts = headers[names][4]
    allocated = 2

    def name(header: tuple[Any, ...]) -> str:
        begin = texts + header[0]
        return program[begin : program.index(0, begin)].decode()

    return {name(header): header[5] for header in headers if header[2] & allocated}
