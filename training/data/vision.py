"""Import torchvision, also where its compiled operators do not fit the installed torch."""

import importlib
import sys
from types import ModuleType
from typing import Any

from fsg import FsgError

# torch forgets an operator when the Library that defined it is collected.
_kept: list[Any] = []


def import_torchvision() -> ModuleType:
    """Return the torchvision module.

    torchvision's wheels are built against CUDA. Beside a CPU build of torch the compiled operators cannot
    load, and the Python part then fails on registering a gradient for the missing `torchvision::nms`.
    Datasets, transforms and models need no compiled operator, so on exactly that failure the two names are
    declared, without an implementation, and the import is repeated. A torchvision that imports is untouched.

    Errors: FsgError when torch or torchvision is not installed. Any other failure is torchvision's own.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise FsgError(f"{error.name} is not installed: pip install 'fsg[train]'") from error
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    # What the failed import left behind would be reused half-initialised.
    for left in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[left]
    return importlib.import_module("torchvision")
