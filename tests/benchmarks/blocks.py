"""Executed instructions of residual blocks on aarch64, with and without fusion, in LiteRT under qemu-aarch64.

python tests/benchmarks/blocks.py

Unfused, the delegate runs LCE's operators only and XNNPACK or LiteRT itself the elementwise ones between them.
"""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import native
import numpy as np

sys.path.insert(0, str(native.HERE.parent / "support"))

import lce

SYSROOT = Path("/usr/aarch64-linux-gnu")
LITERT = "ai-edge-litert==1.4.0"  # its wheel holds the classic C library
SHAPES = [(32, 16), (16, 32), (8, 64), (56, 64), (28, 128), (14, 256), (7, 512)]  # size of the image, channels
CPU_INFO = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


def bi_real(add, source, conv, constant):
    """Bi-Real Net: sign, binary convolution with its normalisation, shortcut."""
    return add("ADD", [conv(source), source])


def prelu(add, source, conv, constant):
    """The same with a scale, a PReLU and a second normalisation before the shortcut."""
    value = add("PRELU", [add("MUL", [conv(source), constant()]), constant(1, 1)])
    return add("ADD", [add("ADD", [add("MUL", [value, constant()]), constant()]), source])


def react(add, source, conv, constant):
    """ReActNet: a sign with thresholds, the shortcut, then an RPReLU."""
    value = add("ADD", [conv(add("SUB", [source, constant()])), source])
    return add("ADD", [add("PRELU", [add("SUB", [value, constant()]), constant(1, 1)]), constant()])


def react_relu(add, source, conv, constant):
    """The same with the RPReLU in operators that every converter has: relu(x) - slope * relu(-x)."""
    value = add("SUB", [add("ADD", [conv(add("SUB", [source, constant()])), source]), constant()])
    negative = add("MUL", [add("RELU", [add("NEG", [value])]), constant()])
    return add("ADD", [add("SUB", [add("RELU", [value]), negative]), constant()])


BLOCKS = {"Bi-Real": bi_real, "PReLU": prelu, "ReActNet": react, "ReActNet, RELU": react_relu}


def model(block, size: int, channels: int, count: int = 2) -> bytes:
    """Several blocks between two additions of constants, as between other layers."""
    rng = np.random.default_rng(0)
    graph = lce.Graph()
    shape = (1, size, size, channels)

    def constant(*outer: int) -> int:
        return graph.constant(np.abs(rng.standard_normal((*outer, channels))).astype(np.float32))

    def add(name: str, inputs: list[int]) -> int:
        options = {"fusedActivationFunction": 0} if name in ("ADD", "SUB", "MUL") else {}
        return graph.builtin(name, inputs, shape, **options)

    def conv(value: int) -> int:
        weights = rng.choice([-1, 1], (channels, 3, 3, channels))
        constants = rng.standard_normal((2, channels)).astype(np.float32)
        return graph.conv(graph.quantize(value), lce.Conv(weights, padding=0, pad_values=1), *constants)

    source = graph.tensor(shape)
    value = add("ADD", [source, constant()])
    for _ in range(count):
        value = block(add, value, conv, constant)
    return graph.build([source], [add("ADD", [value, constant()])])


def why_not() -> str | None:
    """What is missing here, and the command that installs it."""
    if native.find_emulator() is None or not SYSROOT.exists():
        return "needs qemu-aarch64 and a C library for aarch64: apt-get install qemu-user libstdc++6-arm64-cross"
    return None


@dataclass(frozen=True)
class Board:
    """LiteRT for aarch64 under the emulator."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Board":
        board = cls(folder)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps"]
        platform = ["--platform", "manylinux_2_17_aarch64", "--python-version", "3.11", "--implementation", "cp"]
        subprocess.run([*download, *platform, "--dest", folder, LITERT], check=True, stderr=subprocess.DEVNULL)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            board.litert.write_bytes(wheel.read("ai_edge_litert/libLiteRtRuntimeCApi.so"))
        root = folder / "root"  # LiteRT looks for the processor's features in a file of the system
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(CPU_INFO)
        (root / "lib").symlink_to(SYSROOT / "lib")
        return board

    @property
    def litert(self) -> Path:
        return self.folder / "libLiteRtRuntimeCApi.so"

    def run(self, content: bytes, fuse: bool) -> tuple[int, str]:
        """Instructions of one inference, as the difference that two more make, and a checksum of the output."""
        (self.folder / "model.tflite").write_bytes(content)
        emulator = [str(native.find_emulator()), "-cpu", "cortex-a72", "-L", self.folder / "root"]
        plugin = ["-plugin", native.build_plugin()]
        driver, delegate = native.build_litert_driver(), native.build_delegate()

        def executed(repetitions: int) -> tuple[int, str]:
            program = [driver, self.litert, delegate, str(int(fuse)), str(repetitions)]
            command = [*emulator, *plugin, *program, self.folder / "model.tflite"]
            child = subprocess.run(command, capture_output=True, text=True, check=True)
            return int(child.stderr.splitlines()[-1].split()[0]), child.stdout.strip()

        (few, checksum), (more, _) = executed(2), executed(4)
        return (more - few) // 2, checksum


def main() -> None:
    reason = why_not()
    if reason:
        raise SystemExit(reason)
    print("executed instructions of two blocks with a 3x3 convolution each")
    print(f"{'block':16}{'image':>12}{'fused':>12}{'unfused':>12}{'fewer':>8}")
    with tempfile.TemporaryDirectory() as folder:
        board = Board.make(Path(folder))
        for name, block in BLOCKS.items():
            for size, channels in SHAPES:
                content = model(block, size, channels)
                (fused, got), (unfused, expected) = board.run(content, True), board.run(content, False)
                assert got == expected, "the outputs differ"
                shape = f"{size}x{size}x{channels}"
                print(f"{name:16}{shape:>12}{fused:12}{unfused:12}{1 - fused / unfused:8.1%}", flush=True)


if __name__ == "__main__":
    main()
