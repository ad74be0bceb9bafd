"""What an installation holds, and that the base one needs neither torch nor tensorflow."""

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOMS = ("commands", "training", "export", "runtime")
DATA = {".toml", ".json", ".css", ".j2", ".sh"}
HELP_S, LEAST_S = 0.15, 0.065  # of fsg --help and of click alone, on the same machine at rest

BLOCK = """
import sys
for name in ("torch", "torchvision", "tensorflow", "larq_compute_engine", "onnx", "onnxruntime", "sklearn", "PIL",
             "matplotlib", "scipy", "safetensors"):
    sys.modules[name] = None  # importing it raises ImportError
before = set(sys.modules)
"""
COMMAND = """
from fsg.cli import main
main()
"""


FACE = """
import fsg
heavy = {"numpy", "click", "PIL", "fsg.runtime"} & set(sys.modules) - before
assert not heavy, heavy
import numpy as np
model, images = fsg.load(sys.argv[1]), np.load(sys.argv[2])
assert model.shape == (8, 8, 3) and model.classes == ("ant", "bee", "cat", "dog")
assert model(images).shape == (50, 4)
try:
    model(images[:, :4])
except fsg.FsgError as error:
    assert "image 0: resizing needs Pillow" in str(error) and "pip install pillow" in str(error), error
else:
    raise AssertionError
try:
    fsg.lead
except AttributeError as error:
    assert "'fsg' has no attribute 'lead'" in str(error)
"""


def base_install(*arguments):
    """Runs the command where only the base dependencies can be imported."""
    return python_of_base(COMMAND, *arguments)


def python_of_base(program, *arguments):
    return subprocess.run([sys.executable, "-c", BLOCK + program, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="session")
def names_in_wheel(clean_source, tmp_path_factory):
    """What a wheel for this machine is called, and what it holds."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, clean_source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith("fsg-0.") and "-py3-none-linux_" in wheel.name
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
@pytest.mark.xdist_group("wheel")
def test_wheel_holds_one_package_and_the_native_libraries(names_in_wheel):
    assert {name.split("/")[0] for name in names_in_wheel if ".dist-info/" not in name} == {"fsg"}
    for name in ("py.typed", "runtime/libcount_instructions.so", "training/scan/libfsg_training.so"):
        assert f"fsg/{name}" in names_in_wheel
    for machine in ("aarch64", "x86_64", "android-aarch64"):  # whatever this host is: fsg sends them to boards
        programs = {f"fsg/runtime/targets/{machine}/{name}" for name in ("fsg_benchmark", "libfsg_delegate.so")}
        assert programs <= set(names_in_wheel)
    assert not [name for name in names_in_wheel if "test" in name or name.endswith((".cc", ".h", "setup.py"))]


@pytest.mark.slow
@pytest.mark.xdist_group("wheel")
def test_wheel_holds_every_module_and_every_data_file_of_the_tree(names_in_wheel):
    """What setup.py or pyproject.toml forgets is missing only where fsg is installed."""
    root = Path(__file__).parents[1]
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    own = [Path(name) for name in tracked if name.count("/") == 0 or name.split("/")[0] in ROOMS]
    modules = {f"fsg/{name}" for name in own if name.suffix == ".py" and name != Path("setup.py")}
    data = {f"fsg/{name}" for name in own if name.suffix in DATA and len(name.parts) > 1}
    assert {f"fsg/{room}/__init__.py" for room in ROOMS} < modules
    assert {Path(name).suffix for name in data} == DATA
    assert {name for name in names_in_wheel if name.endswith(".py")} == modules
    assert {name for name in names_in_wheel if Path(name).suffix in DATA and ".dist-info/" not in name} == data


def seconds(*command):
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    return time.perf_counter() - start


def test_help_is_quick_and_imports_nothing_heavy():
    """The least of several starts; on a busy machine as much slower as Python is there with click alone."""
    times, least = [], []
    for _ in range(15):
        times.append(seconds("-c", BLOCK + COMMAND, "--help"))
        least.append(seconds("-c", "import click, inspect, subprocess, typing"))
        if min(times) < HELP_S:
            break
    assert min(times) < HELP_S * max(1, min(least) / LEAST_S)


def test_base_install_measures_and_evaluates_a_tflite(tmp_path):
    from fsg.export.formats.tflite.write import to_tflite
    from fsg.export.graph import BinaryConv, BinaryGraph, Input, Reduce, Reshape, Sign
    from fsg.runtime.model.metadata import add_tflite_metadata

    rng = np.random.default_rng(0)
    conv = BinaryConv(
        name="conv",
        inputs=("sign",),
        shape=(1, 4, 8, 8),
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=1,
        negative=rng.random((4, 3, 3, 3)) < 0.5,
        scale=np.ones(4, np.float32),
        bias=np.zeros(4, np.float32),
        padding_value=1.0,
    )
    nodes = (
        Input(name="image", shape=(1, 3, 8, 8)),
        Sign(name="sign", inputs=("image",), shape=(1, 3, 8, 8)),
        conv,
        Reduce(name="pool", inputs=("conv",), shape=(1, 4, 1, 1), operator="mean", axes=(2, 3)),
        Reshape(name="flat", inputs=("pool",), shape=(1, 4)),
    )
    names = ["ant", "bee", "cat", "dog"]
    metadata = {"mean": [0.5] * 3, "std": [0.25] * 3, "class_names": names, "input_shape": [1, 3, 8, 8]}
    model = tmp_path / "model.tflite"
    model.write_bytes(add_tflite_metadata(to_tflite(BinaryGraph(nodes))[0], metadata))
    images = rng.integers(0, 256, (50, 3, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_test=images, y_test=np.arange(50) % 4, class_names=np.array(names))

    result = base_install("eval", model, "--dataset", f"npz:{tmp_path / 'data.npz'}")
    assert result.returncode == 0 and "on 50 images" in result.stdout, result.stderr
    assert base_install("env").returncode == 0
    assert "cortex-a72" in base_install("devices").stdout
    result = base_install("predict", model, "picture.png")
    line = "fsg: error: fsg predict needs Pillow (import of PIL halted; None in sys.modules): pip install pillow\n"
    assert (result.returncode, result.stderr) == (2, line)
    np.save(tmp_path / "images.npy", images.transpose(0, 2, 3, 1))
    result = python_of_base(FACE, model, tmp_path / "images.npy")
    assert result.returncode == 0, result.stderr
    result = base_install("bench", model, "--runs", 3)
    assert result.returncode == 0 and "measured" in result.stdout, result.stderr
    for arguments, cure in (
        (["train"], "fsg[train]"),
        (["export", tmp_path], "not a run"),
        (["eval", model, "--dataset", "digits"], "fsg[train]"),
        (["summary", "resnet20"], "fsg[train]"),
    ):
        result = base_install(*arguments)
        assert result.returncode == 2 and cure in result.stderr and result.stderr.count("\n") == 1, result.stderr
