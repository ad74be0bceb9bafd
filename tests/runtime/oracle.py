"""LCE's own interpreter and converter, which live in an environment of their own: `make oracle`."""

import os
import subprocess
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "oracle"


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
    """Of converted networks: build/zoo, or where FSG_ZOO points."""
    return Path(os.environ.get("FSG_ZOO") or ROOT / "build" / "zoo")


def zoo(*names: str) -> dict[str, bytes]:
    """Larq Zoo networks by name, converted when they are first asked for."""
    folder = zoo_folder()
    missing = [name for name in names if not (folder / f"{name}.tflite").exists()]
    if missing:
        program("zoo.py", folder, *missing)
    return {name: (folder / f"{name}.tflite").read_bytes() for name in names}


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
