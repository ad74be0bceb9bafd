"""From a trained run to verified artefacts: run -> trace -> graph -> passes -> formats -> verify; see pipeline.py.
May import training/, and runtime/ to verify in the interpreter that will run the file."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """`fsg.export(...)` is `fsg.face.export`, though this folder has its name."""

    def __call__(self, *arguments: Any, **how: Any) -> Any:
        return import_module("fsg.face").export(*arguments, **how)


sys.modules[__name__].__class__ = _Callable
