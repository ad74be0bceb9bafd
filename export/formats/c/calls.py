"""Calls of C functions: what a step of a network reads, writes and does to every pixel on its way."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.export.formats.tflite.lowered import Operator, Tensor

How = Literal["FSG_PER_CHANNEL", "FSG_PER_VALUE"]
SIGNS = np.dtype(np.uint8)
SLACK = 8  # bytes that binary.c may read or write behind signs


@dataclass(frozen=True, eq=False)
class Post:
    """A post-operation, `does` of sweep.c; `tensor` is what it reads or writes."""

    does: str
    how: How = "FSG_PER_CHANNEL"
    tensor: Tensor | None = None

    @property
    def writes(self) -> bool:
        return self.does in ("STORE", "PACK")


@dataclass(frozen=True)
class Window:
    """What slides over an image: sizes are (rows, columns); `before` are the rows above and the columns to the left."""

    size: tuple[int, int]
    channels: int
    out: tuple[int, int]
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Bits:
    """An argument that points to signs."""

    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Scratch:
    """An argument that points to so many bytes of room."""

    bytes: int
    kind: str = "float"


@dataclass(frozen=True)
class Offset:
    """So many numbers behind the pointer before it."""

    count: int


@dataclass(eq=False)
class Step:
    """A call of the function `kernel`: its arguments are text, tensors, constants, the window, or scratch. `posts` are
    done to every pixel; other functions write `out`."""

    kernel: str
    arguments: list[Any]
    posts: list[Post] = field(default_factory=list)
    out: Tensor | None = None
    defines: tuple[str, ...] = ()

    @property
    def window(self) -> Window | None:
        return next((argument for argument in self.arguments if isinstance(argument, Window)), None)

    def reads(self) -> Iterator[Tensor]:
        """What is read as a whole."""
        for argument in self.arguments:
            tensor = argument.tensor if isinstance(argument, Bits) else argument
            if isinstance(tensor, Tensor) and tensor is not self.out:
                yield tensor

    def operands(self) -> Iterator[Tensor]:
        """What post-operations read."""
        for post in self.posts:
            if post.tensor is not None and not post.writes:
                yield post.tensor

    def written(self) -> Iterator[Tensor]:
        if self.out is not None:
            yield self.out
        for post in self.posts:
            if post.tensor is not None and post.writes:
                yield post.tensor


def signs_bytes(channels: int) -> int:
    """That the signs of a pixel take."""
    return -(-channels // 8)


def tensor_bytes(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape)) * tensor.kind.itemsize


def data_of(tensor: Tensor | None) -> NDArray[Any]:
    """The values of a constant."""
    assert tensor is not None and tensor.data is not None
    return tensor.data


def pad_value(pad: Operator) -> float:
    """What a PAD or PADV2 adds."""
    return 0.0 if len(pad.inputs) < 3 else float(data_of(pad.inputs[2]))


def number(value: float) -> str:
    """A float as C writes it, to the last bit."""
    text = f"{value:.9g}"
    if "n" in text:  # inf and nan
        if value != value:
            raise FsgError("cannot export to C: a constant is not a number")
        return "-HUGE_VALF" if value < 0 else "HUGE_VALF"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
