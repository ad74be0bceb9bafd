"""Compiles a model.c of fsg's for this machine, and runs it."""

import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError

METADATA = "fsg metadata: "
FLAGS = ("-std=c99", "-O3", "-march=native")
_SIZES = {f"FSG_{what}" for what in ("HEIGHT", "WIDTH", "CHANNELS", "OUTPUTS", "ARENA_BYTES", "CONSTANT_BYTES")}
_DEFINE = re.compile(r"^#define (FSG_[A-Z_]+) (\d+)(?: /\* (.*) \*/)?", re.MULTILINE)


def read_header(path: Path) -> tuple[dict[str, int], tuple[int, ...]]:
    """What the model.h beside a model.c defines: sizes by name, and the shape [...] of the result, without a batch.

    Errors: FsgError for one that is none of fsg's.
    """
    header = path.with_suffix(".h")
    try:
        found = _DEFINE.findall(header.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FsgError(f"{header}: cannot be read; it belongs to {path.name}: export both again") from error
    sizes = {name: int(value) for name, value, _ in found}
    if missing := _SIZES - sizes.keys():
        raise FsgError(f"{header}: does not say {', '.join(sorted(missing))}; export it again")
    remark = next(remark for name, _, remark in found if name == "FSG_OUTPUTS")
    shape = tuple(int(n) for n in remark.split(" x ") if n.isdecimal())
    return sizes, shape if int(np.prod(shape)) == sizes["FSG_OUTPUTS"] else (sizes["FSG_OUTPUTS"],)


def c_metadata(path: Path) -> dict[str, Any]:
    """What `fsg export` wrote about the network into a comment of model.c; empty for a file from elsewhere.

    Errors: FsgError for a comment that is damaged.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for _, line in zip(range(5), file, strict=False):
            if line.startswith(f"/* {METADATA}"):
                with suppress(ValueError):
                    found = json.loads(line[3 + len(METADATA) :].removesuffix(" */\n"))
                    if isinstance(found, dict):
                        return found
                raise FsgError(f"{path}: its metadata, in the second line, are damaged; export or copy it again")
    return {}


def functions_called(path: Path) -> dict[str, int]:
    """How often fsg_invoke calls each function in a model.c."""
    _, _, body = path.read_text(encoding="utf-8", errors="replace").rpartition("\nint fsg_invoke(")
    return dict(Counter(re.findall(r"^    (fsg_\w+)\(", body, re.MULTILINE)).most_common())


def compiler() -> list[str]:
    """The command of a C compiler: that of $CC, or cc, gcc or clang, or ziglang's. Errors: FsgError where none is."""
    if given := shlex.split(os.environ.get("CC", "")):
        if found := shutil.which(given[0]):
            return [found, *given[1:]]
        raise FsgError(f"$CC names the compiler {given[0]}, which is not there: correct or unset it")
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if find_spec("ziglang"):
        return zig()
    raise FsgError("a .c file is compiled before it runs, and there is no C compiler: pip install ziglang")


def zig() -> list[str]:
    """The command of the C compiler in the package ziglang."""
    return [sys.executable, "-m", "ziglang", "cc"]


def compile_c(path: Path, output: Path, flags: Sequence[str] = FLAGS) -> None:
    """Makes a library for this processor of a model.c. Errors: FsgError with the compiler's first complaint."""
    command = [*compiler(), *flags, "-fPIC", "-shared", str(path), "-o", str(output), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        raise FsgError(f"{command[0]}: cannot be started ({error.strerror})") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise FsgError(f"{path}: does not compile: {lines[0]}")


class CompiledModel:
    """fsg_invoke of a model.c, compiled into a library of its own."""

    def __init__(self, path: Path, flags: Sequence[str] = FLAGS) -> None:
        sizes, self.outputs = read_header(path)
        self.shape = (sizes["FSG_CHANNELS"], sizes["FSG_HEIGHT"], sizes["FSG_WIDTH"])
        with tempfile.TemporaryDirectory(prefix="fsg-") as folder:
            library = Path(folder) / "model.so"
            compile_c(path, library, flags)
            try:
                self.library = ctypes.CDLL(str(library))
                self._invoke = self.library.fsg_invoke
            except (OSError, AttributeError) as error:
                raise FsgError(f"{path}: has no fsg_invoke that can be called; export it again") from error
        kind = np.uint8 if "FSG_PIXELS" in sizes else np.float32
        self.image: np.ndarray = np.zeros(int(np.prod(self.shape)), kind)
        self.result = np.zeros(sizes["FSG_OUTPUTS"], np.float32)
        self._arguments = [array.ctypes.data_as(ctypes.c_void_p) for array in (self.image, self.result)]

    def invoke(self) -> None:
        """Computes `result` of `image`, which is [H, W, C]."""
        if code := self._invoke(*self._arguments):
            raise RuntimeError(f"fsg_invoke returned {code}")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Results [N, ...] for images [N, C, H, W]; maps are [N, C, H, W] too."""
        results = self.flat(images.transpose(0, 2, 3, 1).reshape(len(images), -1)).reshape(-1, *self.outputs)
        return results.transpose(0, 3, 1, 2) if results.ndim == 4 else results

    def flat(self, images: np.ndarray) -> np.ndarray:
        """Results [N, FSG_OUTPUTS] for images [N, FSG_INPUTS] of numbers as `image` has them, both in the order of
        `fsg_invoke`."""
        results = np.empty((len(images), self.result.size), np.float32)
        for image, result in zip(images, results, strict=True):
            self.image[:] = image
            self.invoke()
            result[:] = self.result
        return results

    def watch(self, images: np.ndarray, values: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> list[np.ndarray]:
        """What a file shows to its `fsg_watch`, [N, ...] each, for images [N, C, H, W]; `values` are shape and type."""
        found: list[list[np.ndarray]] = [[] for _ in values]

        @ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.c_void_p)
        def see(number: int, address: int) -> None:
            shape, kind = values[number]
            content = ctypes.string_at(address, int(np.prod(shape)) * kind.itemsize)
            found[number].append(np.frombuffer(content, kind).reshape(shape))

        ctypes.c_void_p.in_dll(self.library, "fsg_watch").value = ctypes.cast(see, ctypes.c_void_p).value
        self(images)
        return [np.concatenate(parts) for parts in found]
