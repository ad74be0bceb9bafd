"""Run as a program in the oracle's environment: LCE's own interpreter on every model of a folder.

python run_lce.py FOLDER: for every NAME.tflite and NAME.npy, the inputs stacked along a new first axis, writes
NAME.npz with the stacked outputs output0, output1, ... or, if LCE refuses the model, NAME.refused with its reason.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import numpy as np


def extension():
    """LCE's extension module by its file: the import of the package around it is that of all TensorFlow."""
    name = "interpreter_wrapper_lite"
    package = importlib.util.find_spec("larq_compute_engine")
    folder = Path(package.submodule_search_locations[0]) / "tflite" / "python"
    spec = importlib.machinery.PathFinder.find_spec(name, [str(folder)])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LiteInterpreter = extension().LiteInterpreter


def outputs(model: bytes, inputs: np.ndarray) -> list[np.ndarray]:
    interpreter = LiteInterpreter(model, 1, False, False, False)
    runs = [interpreter.predict([value]) for value in inputs]
    return [np.stack(values) for values in zip(*runs, strict=True)]


def main() -> None:
    for path in sorted(Path(sys.argv[1]).glob("*.tflite")):
        try:
            values = outputs(path.read_bytes(), np.load(path.with_suffix(".npy")))
        except RuntimeError as error:
            path.with_suffix(".refused").write_text(str(error))
            continue
        np.savez(path.with_suffix(".npz"), **{f"output{i}": value for i, value in enumerate(values)})


if __name__ == "__main__":
    main()
