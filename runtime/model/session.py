"""Opens an exported model as a function from images to scores, whatever its file format."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.runtime.library import delegate_path
from fsg.runtime.model.c import CompiledModel, c_metadata
from fsg.runtime.model.evaluate import to_pixels
from fsg.runtime.model.files import model_format
from fsg.runtime.model.grids import Grid, from_integers, to_integers
from fsg.runtime.model.metadata import KEY, parse_metadata, read_metadata
from fsg.runtime.model.onnx import onnx_property, open_onnx
from fsg.runtime.model.packed.interpret import Interpreter
from fsg.runtime.model.packed.read import read_packed
from fsg.runtime.model.tflite import images_at_once

AT_ONCE = 64
"""Images that a model which takes any number is given: what is in a network has to fit into memory."""


class Session:
    """A model ready to run. `open_model` makes one.

    Attributes:
        path: the model file.
        format: "tflite", "onnx", "packed" or "c".
        metadata: what `fsg export` wrote into the file; empty for a file from elsewhere.
        input_shape: (channels, height, width) of one image; of models for something else there is none.
        result_type: of what the file gives, float32 or that of integers.
        batch: images of one inference; 1 if the model takes any number.
    """

    format: str
    input_shape: tuple[int, int, int]
    result_type: Any = np.float32
    _batch: int  # images per inference; 0 if the model takes any number

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        self._encode: Callable[[np.ndarray], np.ndarray] | None = None  # for files that take integers
        self._decode: Callable[[np.ndarray], np.ndarray] | None = None  # for those that give them

    @property
    def batch(self) -> int:
        return self._batch or 1

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Scores [N, classes], or what else the model gives for an image, of normalised images [N, C, H, W], float32.

        Maps are [N, C, H, W] whatever the order in the file.

        Raises:
            FsgError: the images have another shape than the model's, or the inference fails.
        """
        if images.ndim != 4 or images.shape[1:] != self.input_shape or not len(images):
            expected = ", ".join(map(str, self.input_shape))
            raise FsgError(f"{self.path}: images of shape {list(images.shape)} do not fit its [N, {expected}]")
        images = np.ascontiguousarray(images, np.float32)
        step = self._batch or AT_ONCE
        scores = [self._scores(images[start : start + step]) for start in range(0, len(images), step)]
        return np.concatenate(scores)[: len(images)]

    def encoded(self, images: np.ndarray) -> np.ndarray:
        """Normalised images as the file takes them: integers, if it takes these."""
        return self._encode(images) if self._encode else images

    def decoded(self, scores: np.ndarray) -> np.ndarray:
        """What the file gives as float32."""
        return self._decode(scores) if self._decode else np.array(scores, np.float32)

    def fill(self) -> None:
        """Sets every input to random values of its type, for `invoke`."""
        raise NotImplementedError

    def invoke(self) -> None:
        """One bare inference on the input set last: what a benchmark times."""
        try:
            self._invoke()
        except Exception as error:
            raise self._failure(error) from error

    def _invoke(self) -> None:
        raise NotImplementedError

    def _run(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _scores(self, images: np.ndarray) -> np.ndarray:
        missing = self._batch - len(images)
        if missing > 0:
            images = np.concatenate([images, np.zeros((missing, *self.input_shape), np.float32)])
        try:
            scores = self._run(self.encoded(images))
        except Exception as error:
            raise self._failure(error) from error
        scores = self.decoded(scores)
        return scores if scores.ndim > 2 and scores[0].size > scores.shape[1] else scores.reshape(len(images), -1)

    def _failure(self, error: Exception) -> FsgError:
        # Any exception is the runtime's: ONNX Runtime's types share no base but Exception.
        return FsgError(f"{self.path}: the inference failed: {_one_line(error)}")

    def _random(self, shape: Sequence[int], kind: Any) -> np.ndarray:
        """Values of a type of NumPy's: any bytes, of larger integers 0 and 1, which are indices of most tables."""
        rng = np.random.default_rng(0)
        try:
            letter = np.dtype(kind).kind
        except TypeError:  # of ONNX's own, such as bfloat16
            letter = "?"
        if letter == "f":
            return rng.standard_normal(shape, np.float32).astype(kind)
        if letter not in "iub":
            raise FsgError(f"{self.path}: its inputs must be numbers or truth values to be filled; one is {kind}")
        if np.dtype(kind) in (np.int8, np.uint8):
            return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
        return rng.integers(0, 2, shape).astype(kind)

    def _input_kind(self, integers: Any) -> Any:
        """The type of the images that the file takes: float32, of raw pixels uint8, and on a grid `integers`.

        Such a file gives integers too; those of uint8 have a zero 128 on.
        """
        if self.metadata.get("input") == "uint8":
            mean, std = (self.metadata.get(name) for name in ("mean", "std"))
            if not (isinstance(mean, list) and isinstance(std, list)):
                raise FsgError(f"{self.path}: takes raw pixels, but its metadata lack mean or std; export it again")
            self._encode = partial(to_pixels, mean=mean, std=std)
            return np.uint8
        found = [self.metadata.get(name) for name in ("input_grid", "output_grid")]
        grids = [Grid(float(grid[0]), int(grid[1])) for grid in found if isinstance(grid, list) and len(grid) == 2]
        if len(grids) < 2:
            return np.float32
        offset = 128 if integers is np.uint8 else 0
        source, result = (Grid(step, zero + offset) for step, zero in grids)
        self._encode = partial(to_integers, grid=source, kind=integers)
        self._decode, self.result_type = partial(from_integers, grid=result), integers
        return integers

    def _set_input_shape(self, shape: list[int]) -> None:
        """Takes [N, C, H, W] of the model's input and compares it with what the metadata promise."""
        self.input_shape = (shape[1], shape[2], shape[3])
        promised = self.metadata.get("input_shape")
        if isinstance(promised, list) and promised[1:] != shape[1:]:
            raise FsgError(
                f"{self.path}: its input is {shape[1:]} but its metadata say {promised[1:]}; export it again"
            )


class TfliteSession(Session):
    """A .tflite file in the stock LiteRT interpreter; XNNPACK runs what the delegate leaves."""

    format = "tflite"

    def __init__(
        self, path: Path, *, num_threads: int, delegate: bool, kernels: str, fuse: bool, any_inputs: bool
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter, load_delegate

        super().__init__(path, read_metadata(path))
        library = delegate_path() if delegate else None
        try:
            delegates = [load_delegate(library, {"kernels": kernels, "fuse": str(int(fuse))})] if library else []
        except (ValueError, OSError) as error:
            raise FsgError(f"{library}: {_one_line(error)}") from error
        self._delegates = delegates
        try:
            with _quiet():
                self._interpreter = Interpreter(
                    model_path=str(path), num_threads=num_threads, experimental_delegates=delegates
                )
                self._interpreter.allocate_tensors()
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (RuntimeError, ValueError, MemoryError) as error:
            raise FsgError(f"{path}: LiteRT refuses this model: {_one_line(error)}") from error
        self._inputs = [(details["index"], [int(n) for n in details["shape"]], details["dtype"]) for details in inputs]
        kind = self._input_kind(np.int8)
        if len(inputs) == 1 and outputs and len(inputs[0]["shape"]) == 4 and inputs[0]["dtype"] == kind:
            ((self._input, (self._batch, *size, channels), _),) = self._inputs
            self._output = outputs[0]["index"]
            self._set_input_shape([self._batch, channels, *size])
        elif any_inputs:
            self._batch = images_at_once(path)
        else:
            raise FsgError(f"{path}: expected one float32 image [N, H, W, C] as input; export it with `fsg export`")

    @property
    def delegate_pointer(self) -> int | None:
        """Address of the native delegate, for its profile; None for a model that runs without."""
        return self._delegates[0]._get_native_delegate_pointer() if self._delegates else None

    def fill(self) -> None:
        for index, shape, kind in self._inputs:
            self._interpreter.set_tensor(index, self._random(shape, kind))

    def _invoke(self) -> None:
        self._interpreter.invoke()

    def _run(self, images: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
        self._interpreter.invoke()
        result = self._interpreter.get_tensor(self._output)
        return result.transpose(0, 3, 1, 2) if result.ndim == 4 else result


class OnnxSession(Session):
    """A .onnx file in ONNX Runtime."""

    format = "onnx"

    def __init__(self, path: Path, *, num_threads: int, any_inputs: bool) -> None:
        self._session = open_onnx(path, num_threads=num_threads)
        super().__init__(path, parse_metadata(path, onnx_property(self._session, KEY)))
        inputs = self._session.get_inputs()
        self._inputs = [(source.name, source.shape, source.type) for source in inputs]
        shape = inputs[0].shape if inputs else []
        kind = "tensor(uint8)" if self._input_kind(np.uint8) is np.uint8 else "tensor(float)"
        is_image = len(inputs) == 1 and len(shape) == 4 and inputs[0].type == kind
        if is_image and all(isinstance(n, int) for n in shape[1:]):
            self._set_input_shape(shape)
        elif is_image and not any_inputs:
            raise FsgError(f"{path}: the size of its input {shape} is not fixed; export it with `fsg export`")
        elif not any_inputs:
            raise FsgError(f"{path}: expected one float32 image [N, C, H, W] as input; export it with `fsg export`")
        self._batch = shape[0] if len(shape) > 1 and isinstance(shape[0], int) else 0
        self._feed: dict[str, np.ndarray] = {}

    def fill(self) -> None:
        for name, shape, kind in self._inputs:
            word = kind.removeprefix("tensor(").removesuffix(")")
            sizes = [n if isinstance(n, int) else 1 for n in shape]
            self._feed[name] = self._random(sizes, {"float": "float32", "double": "float64"}.get(word, word))

    def _invoke(self) -> None:
        self._session.run(None, self._feed)

    def _run(self, images: np.ndarray) -> np.ndarray:
        self._feed = {self._inputs[0][0]: images}
        return self._session.run(None, self._feed)[0]


class PackedSession(Session):
    """A .fsg file, computed by NumPy: what each of its operators means rather than how fast it can be."""

    format = "packed"
    _batch = 0

    def __init__(self, path: Path, *, num_threads: int) -> None:
        if num_threads > 1:
            raise FsgError(f"{path}: NumPy computes .fsg files on one thread; leave --threads away, or take a .tflite")
        file = read_packed(path)
        super().__init__(path, file.metadata)
        self._set_input_shape(list(file.nodes[0].shape))
        self._result = file.nodes[-1].shape
        self._interpreter = Interpreter(file)

    def fill(self) -> None:
        self._images = self._random((1, *self.input_shape), np.float32)

    def _invoke(self) -> None:
        self._interpreter(self._images)

    def _run(self, images: np.ndarray) -> np.ndarray:
        result = self._interpreter(images)
        if result.shape != (len(images), *self._result[1:]):
            raise ValueError(f"its result is {list(result.shape)} for {len(images)} images")
        return result


class CSession(Session):
    """A model.c with the model.h beside it, compiled for this processor."""

    format = "c"
    _batch = 1

    def __init__(self, path: Path, *, num_threads: int) -> None:
        if num_threads > 1:
            raise FsgError(f"{path}: a model.c runs on one thread; leave --threads away, or take a .tflite")
        super().__init__(path, c_metadata(path))
        self._model = CompiledModel(path)
        self._set_input_shape([1, *self._model.shape])
        self._input_kind(np.uint8)

    def fill(self) -> None:
        self._model.image[:] = self._random(self._model.image.shape, self._model.image.dtype)

    def _invoke(self) -> None:
        self._model.invoke()

    def _run(self, images: np.ndarray) -> np.ndarray:
        return self._model(images)


def open_model(
    path: str | Path,
    *,
    num_threads: int = 1,
    delegate: bool = True,
    kernels: str = "auto",
    fuse: bool = True,
    any_inputs: bool = False,
) -> Session:
    """Opens a .tflite, .onnx, .fsg or .c file for inference.

    Args:
        path: the model file.
        num_threads: threads of the interpreter and of the binary kernels.
        delegate: False leaves the binary operators of a .tflite file to LiteRT, which does not know them.
        kernels: which binary kernels a .tflite file runs on: "auto", or one of `possible_kernels`. "auto"
            heeds the environment variable FSG_KERNELS. The plain "scalar" loops tell whether a kernel is to blame.
        fuse: False leaves to LiteRT what stands between the binary operators of a .tflite file: slower, with the
            same scores.
        any_inputs: whether a model that takes something else than one float32 image is opened too, to be filled and
            invoked.

    Raises:
        FsgError: a missing, truncated or unsupported file, or a runtime that is not installed.
    """
    path = Path(path)
    if num_threads < 1:
        raise FsgError(f"num_threads is {num_threads}; give at least 1")
    form = model_format(path)
    if form == "packed":
        return PackedSession(path, num_threads=num_threads)
    if form == "c":
        return CSession(path, num_threads=num_threads)
    if form == "tflite":
        return TfliteSession(
            path, num_threads=num_threads, delegate=delegate, kernels=kernels, fuse=fuse, any_inputs=any_inputs
        )
    return OnnxSession(path, num_threads=num_threads, any_inputs=any_inputs)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops what native code writes to stderr; LiteRT announces its delegates there, and puts errors in exceptions."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
