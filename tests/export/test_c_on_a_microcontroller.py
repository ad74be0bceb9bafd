"""C of a network on an emulated microcontroller: the bits of this machine, and the memory that it takes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import RESNETS, write_c
from nodes import convolution, floats, node, of_nodes
from records import validate
from torch import nn

from fsg import FsgError, runtime
from fsg.export import graph as g
from fsg.export.pipeline import export_model
from fsg.runtime.boards.devices import find_device
from fsg.runtime.measure.microcontroller import compile_for, emulate_c, section_sizes
from fsg.runtime.model.evaluate import normalize, statistics
from fsg.runtime.model.session import open_model
from fsg.training.layers import BinaryConv2d

needs_emulator = pytest.mark.skipif(
    shutil.which("qemu-system-arm") is None, reason="no qemu-system-arm: apt-get install qemu-system-arm"
)


@pytest.fixture
def small(tmp_path):
    """A file of which every step is computed exactly: a binary convolution, and sums."""
    layers = [node(g.Sign), convolution(g.BinaryConv, 5, 40, 3, padding_value=1.0, padding=(1, 1))]
    return write_c(of_nodes((5, 9, 7), *layers, node(g.Affine, scale=floats(40), bias=floats(40))), tmp_path)


@needs_emulator
@pytest.mark.parametrize("device", ["cortex-m4", "cortex-m3"])
def test_a_network_has_the_bits_of_this_machine(small, device):
    record = emulate_c(small, find_device(device))
    assert (record["kind"], record["cpu"], record["device"]) == ("emulated", device, device)
    assert record["bit_exact"] and record["differing"] == record["host_difference"] == 0
    sums = 9 * 7 * 40 * 45
    assert sums / 32 < record["instructions"] < 8 * sums
    assert 0 < record["size_bytes"] < record["flash_bytes"] < record["size_bytes"] + 6000
    assert 0 < record["arena_bytes"] < record["ram_bytes"] < record["arena_bytes"] + 2000
    assert not [name for name in record if "ms" in name or "latency" in name]


@needs_emulator
def test_resnet20_fits_a_microcontroller(tmp_path, fsg, refused):
    model, shape = RESNETS["W1A1"]()
    report = export_model(model, shape, tmp_path, ["c"])
    code, out, err = fsg("bench", tmp_path, "--device", "cortex-m4", "--json", tmp_path / "records.json")
    (record,) = records = json.loads((tmp_path / "records.json").read_text())
    validate(records)
    assert code == 0 and "58." in out and "emulated" in out and "--host" not in out + err
    assert record["bit_exact"] and record["host_same_top1"] == 1
    assert record["flash_bytes"] <= 60_000 and record["ram_bytes"] <= 96_000
    assert record["arena_bytes"] == report["artefacts"][0]["arena_bytes"]
    assert record["float_size_bytes"] == report["float_size_bytes"] if "accuracy" in record else True
    assert "leave --host away" in refused("bench", tmp_path, "--device", "cortex-m4", "--host", "pi@desk")


def test_what_a_microcontroller_does_not_run(small, refused, tmp_path, monkeypatch):
    line = refused("bench", small, "--device", "rpi4")
    assert "rpi4 runs .tflite files; write one with `fsg export --format tflite`" in line
    (tmp_path / "model.tflite").write_bytes(b"")
    line = refused("bench", tmp_path / "model.tflite", "--device", "cortex-m4")
    assert "cortex-m4 runs .c files; write one with `fsg export --format c`" in line
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no qemu-system-arm: apt-get install qemu-system-arm" in refused("bench", small, "--device", "cortex-m4")


@needs_emulator
def test_what_does_not_compile_or_fit_is_one_line(small, tmp_path):
    text = small.read_text()
    small.write_text(text.replace("int fsg_invoke(", "static const char large[20000000] = {1};\nint fsg_invoke("))
    small.write_text(small.read_text().replace("fsg_input = in;", "fsg_input = in + large[in[0] > 0.0f];"))
    with pytest.raises(FsgError, match=r"for a microcontroller: .*error.*DATA"):
        emulate_c(small, find_device("cortex-m4"))
    small.write_text(text.replace("int fsg_invoke(", "int fsg_invoked("))
    with pytest.raises(FsgError, match=r"model.c: has no fsg_invoke|model.c: for a microcontroller: .*error"):
        emulate_c(small, find_device("cortex-m4"))


@needs_emulator
def test_the_example_of_the_page_names_the_digit(earlier_run, fsg, tmp_path):
    """docs/microcontroller.md, as it stands: its code says over the serial port what `fsg eval`'s network says."""
    page = (Path(runtime.__file__).parents[1] / "docs" / "microcontroller.md").read_text()
    (code,) = re.findall(r"```c\n(/\* digit.c: .*?)```", page, re.DOTALL)
    assert code.count("\n") <= 50
    assert fsg("export", earlier_run, "--format", "c")[0] == 0
    path = earlier_run / "export" / "model.c"
    session = open_model(path)
    images = np.load(tmp_path / "digits.npz")["x_test"][:3]
    (tmp_path / "digit.c").write_text(code)
    for image in images:
        pixels = image if image.ndim == 3 else image[None]
        scores = session(normalize(pixels[None], *statistics(session, pixels[None])))
        values = ", ".join(map(str, pixels.transpose(1, 2, 0).reshape(-1)))
        (tmp_path / "pixels.c").write_text(f"const unsigned char pixels[] = {{{values}}};\n")
        compile_for("armv7e-m", [tmp_path / "digit.c", tmp_path / "pixels.c", path], tmp_path / "digit.elf")
        command = ["qemu-system-arm", "-machine", "mps2-an386", "-display", "none", "-monitor", "none"]
        with subprocess.Popen([*command, "-serial", "stdio", "-kernel", tmp_path / "digit.elf"], stdout=-1) as child:
            said = child.stdout.readline().decode()
            child.kill()
        assert said == f"{session.metadata['class_names'][scores.argmax()]}\n"


def test_sizes_of_sections():
    names = b"\0.text\0.bss\0.comment\0"
    header = bytearray(52)
    header[32:36] = (52).to_bytes(4, "little")
    header[46:52] = np.array([40, 4, 0], "<u2").tobytes()
    rows = [(0, 0, 0, 0, 52 + 160, len(names)), (1, 1, 6, 0, 0, 100), (7, 8, 3, 0, 0, 28), (12, 1, 0x30, 0, 0, 9)]
    sections = b"".join(np.array([*row, 0, 0, 0, 0], "<u4").tobytes() for row in rows)
    assert section_sizes(bytes(header) + sections + names) == {".text": 100, ".bss": 28}


@needs_emulator
def test_an_image_of_bytes(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), BinaryConv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)).eval()
    about = {"mean": [0.5], "std": [0.25]}
    for kind in ("float", "uint8"):
        export_model(network, (1, 8, 8), tmp_path / kind, ("c",), metadata=about, input=kind)
    plain, bytewise = (emulate_c(tmp_path / kind / "model.c", find_device("cortex-m4")) for kind in ("float", "uint8"))
    assert bytewise["bit_exact"] and bytewise["host_same_top1"] == 1
    assert plain["instructions"] < bytewise["instructions"] < 1.3 * plain["instructions"]
