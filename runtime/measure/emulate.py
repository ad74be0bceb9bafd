"""Runs a model on an emulated ARM processor: whether its results are right there, and how many instructions it takes.

Never how long: the time of an emulator says nothing about a processor.
"""

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.runtime.boards.cores import cores
from fsg.runtime.boards.litert import runtime_library
from fsg.runtime.library import COUNTER, target
from fsg.runtime.measure.emulated_ops import RUNS, Costs, Inference, emulated_ops, last_inference
from fsg.runtime.measure.records import Emulated, Record, as_record
from fsg.runtime.measure.trace import read_trace
from fsg.runtime.model.session import open_model

MACHINE = "aarch64"
OTHER = "cortex-a76"  # for a core that is not known
SYSROOT = Path("/usr/aarch64-linux-gnu")  # Debian's place for another architecture's C library
INSTALL = "apt-get install qemu-user libstdc++6-arm64-cross"
IMAGES = 4  # at least; files for several take whole batches
# LiteRT looks for the processor's features in a file of the system, and the emulator shows it the host's.
CPU_INFO = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


def why_not() -> str | None:
    """What is missing here, in one line with the command that installs it; None if models can be emulated."""
    if shutil.which("qemu-aarch64") is None:
        return f"there is no qemu-aarch64: {INSTALL}"
    if not (SYSROOT / "lib" / "libstdc++.so.6").exists():
        return f"{SYSROOT} has no C library for aarch64: {INSTALL}"
    return None


def emulate(
    path: str | Path,
    *,
    cpu: str = "cortex-a72",
    device: str = "emulator",
    threads: int = 1,
    profile: bool = False,
    runtime_lib: Path | None = None,
) -> Record:
    """Runs a .tflite model as a board would, under qemu-aarch64, and on this machine.

    The fast NEON kernels are compared bit for bit with the plain loops on the same emulated processor. With this
    machine's results only differences of rounding are expected: XNNPACK adds up the float layers in another order.

    Args:
        path: a model of images.
        device: whose place the emulator takes, for the record.
        cpu: the core to emulate; one that the emulator lacks becomes a Cortex-A76.
        threads: of the delegate and of XNNPACK.
        profile: whether the record tells the instructions of each operator, on one thread.
        runtime_lib: LiteRT's C library for aarch64 instead of the published one.

    Returns:
        A record of kind "emulated", see `records.Emulated`: bit_exact, differing (values that are not), host_difference
        (the largest difference from this machine's outputs, in units of the largest output), host_same_top1 (share of
        images), instructions and, where llvm-mca can tell them, cycles for one image, ops.

    Raises:
        FsgError: something is missing here (see `why_not`), or the model does not run.
    """
    missing = why_not()
    if missing is not None:
        raise FsgError(f"{path}: not emulated: {missing}")
    path = Path(path)
    session = open_model(path, num_threads=threads)
    count = math.ceil(IMAGES / session.batch) * session.batch
    images = np.random.default_rng(0).standard_normal((count, *session.input_shape), np.float32)
    expected = session(images)
    expected = expected.transpose(0, 2, 3, 1) if expected.ndim == 4 else expected  # as the file has it
    core = cores()[cpu if cpu in cores() else OTHER]
    processor, costs, more = core.emulated_as, Costs(core), dict[str, Any]()
    with _machine(path, processor, threads, runtime_lib) as machine:
        facts = machine.run()
        given, kind = session.encoded(images), session.result_type
        found = machine.scores(given, kind)
        differing = int(np.sum(found != machine.scores(given, kind, "--kernels", "scalar")))
        scores = session.decoded(found.view(kind)).reshape(expected.shape)
        instructions = (machine.count(3) - machine.count(1)) // 2
        if costs.is_scheduled or profile:
            inference = machine.trace(path)
            cost = costs.of_all(inference.trace)
            more = {"basis": costs.basis, "cycles": round(cost["cycles"] / session.batch)} if "cycles" in cost else {}
        if profile:
            more["ops"] = emulated_ops(path, inference, costs, machine.trace_alone)
    largest = float(np.abs(expected).max()) or 1.0
    record = Emulated(
        artefact=str(path),
        format=session.format,
        device=device,
        size_bytes=path.stat().st_size,
        cpu=processor,
        kernels=facts["kernels"],
        threads=threads,
        bit_exact=differing == 0,
        differing=differing,
        host_difference=float(np.abs(scores - expected).max()) / largest,
        host_same_top1=float(np.mean(_top(scores) == _top(expected))),
        batch=session.batch,
        instructions=instructions // session.batch,
        **more,
    )
    return as_record(record)


@dataclass(frozen=True)
class _Machine:
    """The program for boards, with its model, under the emulator."""

    path: Path
    folder: Path
    emulator: tuple[str, ...]
    program: str
    libraries: tuple[str, ...]

    def scores(self, images: np.ndarray, kind: Any, *options: str) -> np.ndarray:
        """The first output for every image, flat: the bits of its numbers of some kind."""
        source, destination = self.folder / "images", self.folder / "scores"
        source.write_bytes(np.ascontiguousarray(images.transpose(0, 2, 3, 1)).tobytes())
        self.run("--warmup", "0", "--input", str(source), "--output", str(destination), *options)
        return np.frombuffer(destination.read_bytes(), f"u{np.dtype(kind).itemsize}")

    def count(self, inferences: int) -> int:
        """Instructions of the whole program with so many inferences more than one."""
        child = self._execute(["-plugin", str(COUNTER)], "--warmup", str(inferences))
        return int(child.stderr.splitlines()[-1].split()[0])

    def trace(self, model: Path, *options: str) -> Inference:
        """An inference on one thread, of this model or another one."""
        found = self.folder / "trace"
        how = ("--threads", "1", "--warmup", "0", "--runs", str(RUNS), "--profile", *options)
        child = self._execute(["-plugin", f"{COUNTER},out={found}"], *how, model=model)
        return last_inference(self.path, json.loads(child.stdout), read_trace(found))

    def trace_alone(self, model: Path) -> Inference:
        """That of a model of one operator, by LiteRT and XNNPACK alone."""
        return self.trace(model, "--fuse", "0")

    def run(self, *options: str) -> dict[str, Any]:
        """What the program says."""
        facts: dict[str, Any] = json.loads(self._execute([], *options).stdout)
        return facts

    def _execute(
        self, emulation: list[str], *options: str, model: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        run = ("run", str((model or self.path).resolve()))
        command = [*self.emulator, *emulation, self.program, *run, *self.libraries, "--runs", "0", *options]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
            raise FsgError(f"{self.path}: on an emulated {MACHINE}: {lines[-1]}")
        return child


def _top(scores: np.ndarray) -> np.ndarray:
    """The place of the highest value of each image."""
    return scores.reshape(len(scores), -1).argmax(1)


@contextmanager
def _machine(path: Path, processor: str, threads: int, runtime_lib: Path | None) -> Iterator[_Machine]:
    files, litert = target(MACHINE), runtime_library(MACHINE, runtime_lib)
    with tempfile.TemporaryDirectory(prefix="fsg-emulated-") as name:
        folder = Path(name)
        root = folder / "root"
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(CPU_INFO, encoding="utf-8")
        (root / "lib").symlink_to(SYSROOT / "lib")
        emulator = ("qemu-aarch64", "-cpu", processor, "-L", str(root))
        libraries = ("--runtime", str(litert), "--delegate", str(files.delegate), "--threads", str(threads))
        yield _Machine(path, folder, emulator, str(files.program), libraries)
