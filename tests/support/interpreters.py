"""Interpreters that the one native library must work in, each in an environment of its own: `make interpreters`.

Run as a program, `python interpreters.py`, it makes those that are missing.
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("FSG_INTERPRETERS") or Path(__file__).parents[2] / "build" / "interpreters")
ENVIRONMENTS = {
    "ai-edge-litert-1.4": ["ai-edge-litert==1.4.0"],
    "ai-edge-litert-2.3": ["ai-edge-litert==2.3.0"],
    "tflite-runtime-2.14": ["tflite-runtime==2.14.0", "numpy==1.26.4"],  # has wheels for Python 3.11 and older
    "tensorflow-2.21": ["tensorflow-cpu==2.21.0"],
}


def python(name: str) -> Path:
    return FOLDER / name / "bin" / "python"


def main() -> None:
    for name, packages in ENVIRONMENTS.items():
        done = FOLDER / name / "installed"
        if done.exists():
            continue
        subprocess.run([sys.executable, "-m", "venv", FOLDER / name], check=True)
        subprocess.run([python(name), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()


if __name__ == "__main__":
    main()
