"""torchvision where its operators are missing."""

import subprocess
import sys
import types

import pytest

from fsg.training.data import files as data_files


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_torchvision_imports_here() -> None:
    output = run_python("""
from fsg.training.data.vision import import_torchvision
torchvision = import_torchvision()
assert import_torchvision() is torchvision
import torch
from torchvision.transforms import v2
print(torchvision.datasets.CIFAR10.__name__, v2.CenterCrop(4)(torch.zeros(3, 8, 8)).shape)
""")
    assert output == "CIFAR10 torch.Size([3, 4, 4])\n"


def test_only_the_known_torchvision_failure_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsg.training.data import vision

    def fail(name: str) -> types.ModuleType:
        raise RuntimeError("another failure")

    monkeypatch.setattr(vision.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="another failure"):
        vision.import_torchvision()
    assert data_files.why(RuntimeError("a\n  b")) == "a b"
