"""LCE's own interpreter and converter, which live in an environment of their own: `make oracle`."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import flatbuffers
import kept
import numpy as np
from ai_edge_litert import schema_py_generated as schema

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "oracle"
CONVERSION_S = 900  # the patience with one network


def python() -> Path | None:
    """The environment's interpreter, or None: build/oracle in the checkout, or where FSG_ORACLE points."""
    path = Path(os.environ.get("FSG_ORACLE") or ROOT / "build" / "oracle") / "bin" / "python"
    return path if path.exists() else None


def program(name: str, *arguments: str | Path) -> None:
    child = subprocess.run([python(), PROGRAMS / name, *arguments], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-4000:]


def run_lce(folder: Path, cases: dict[str, tuple[bytes, np.ndarray]]) -> dict[str, list[np.ndarray] | str]:
    """What LCE's interpreter computes, in one process for all of `cases`: a model and its inputs, stacked.

    The stacked outputs by name, or why LCE refuses the model.
    """
    for name, (model, inputs) in cases.items():
        (folder / f"{name}.tflite").write_bytes(model)
        np.save(folder / f"{name}.npy", inputs)
    program("run_lce.py", folder)
    return {name: result(folder / name) for name in cases}


def result(path: Path) -> list[np.ndarray] | str:
    refused = path.with_name(f"{path.name}.refused")
    if refused.exists():
        return refused.read_text()
    with np.load(path.with_name(f"{path.name}.npz")) as outputs:
        return [outputs[f"output{i}"] for i in range(len(outputs))]


def zoo_folder() -> Path:
    """Of what zoo.py converts, as it and its packages are now: in build/zoo, or where FSG_ZOO points."""
    made_by = [(PROGRAMS / name).read_bytes() for name in ("zoo.py", "requirements.txt")]
    return Path(os.environ.get("FSG_ZOO") or ROOT / "build" / "zoo") / kept.digest(*made_by)[:12]


class Zoo:
    """Larq Zoo networks, those that are missing converted in the background, in the order in which they are named.

    A context manager. One process converts them all, for TensorFlow takes long to start; also where several processes
    have a zoo, as the workers of pytest-xdist do.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._folder = zoo_folder()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Zoo":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log = open(self._folder / "log", "a+")
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.kill()  # where nobody waited for all
            self._process.wait()
        self._log.close()

    def model(self, name: str) -> bytes:
        """A .tflite file, as soon as it is there."""
        path, end = self._path(name), time.monotonic() + CONVERSION_S
        while not path.exists():
            self._convert(path)
            assert time.monotonic() < end, f"{name} is not converted; see {self._log.name}"
            time.sleep(0.1)
        return path.read_bytes()

    def _convert(self, path: Path) -> None:
        """Sees to it that a process is at work on the path: this one's, or that of whoever holds the lock."""
        if self._process is None:
            try:
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._log.truncate(0)
            missing = [name for name in self._names if not self._path(name).exists()]
            command = [python() or "", PROGRAMS / "zoo.py", self._folder, *missing]
            self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        elif self._process.poll() is not None and not path.exists():
            raise AssertionError(f"zoo.py fails: {Path(self._log.name).read_text()[-4000:]}")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.tflite"


def exposed(model: bytes) -> bytes:
    """The model with every float activation that becomes a sign as a further output."""
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    (graph,) = content.subgraphs
    quantizers = [i for i, code in enumerate(content.operatorCodes) if code.customCode == b"LceQuantize"]
    sources = [operator.inputs[0] for operator in graph.operators if operator.opcodeIndex in quantizers]
    graph.outputs = [*graph.outputs, *(s for s in dict.fromkeys(sources) if s not in graph.inputs)]
    content.signatureDefs = []  # they name the outputs that there were
    builder = flatbuffers.Builder(len(model))
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())
