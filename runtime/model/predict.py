"""A trained network as a function from pictures to classes: `fsg.load`, and what `fsg predict` is made of."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypeGuard, overload

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError
from fsg.runtime.model.evaluate import CHUNK, Classifier, scores, statistics
from fsg.runtime.model.session import open_model
from fsg.runtime.pictures import Pixels, as_seen, fitted, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

Logits: TypeAlias = NDArray[np.float32]
Pictures: TypeAlias = "Pixels | Image | Sequence[Pixels | Image]"
Ranking: TypeAlias = list[tuple[str, float]]
BATCH = CHUNK  # pictures that are decoded while the network computes those before
KEPT = 8  # pictures in memory at a time where their own pixels are wanted, too: photographs are large


class Model:
    """A trained network. `load` opens one.

    Attributes:
        classes: their names, in the order of the logits.
        shape: (height, width, channels) of the pictures that it takes without resizing them.
    """

    def __init__(self, network: Classifier) -> None:
        self._network = network
        statistics(network, np.empty((0, *network.input_shape), np.uint8))
        channels, height, width = network.input_shape
        self.shape = (height, width, channels)
        names = network.metadata.get("class_names")
        if names is None:
            names = range(network(np.zeros((1, *network.input_shape), np.float32)).shape[1])
        self.classes = tuple(map(str, names))

    @overload
    def __call__(self, images: Pictures, labelled: Literal[False] = False) -> Logits: ...

    @overload
    def __call__(self, images: Pictures, labelled: Literal[True]) -> list[Ranking]: ...

    def __call__(self, images: Pictures, labelled: bool = False) -> Logits | list[Ranking]:
        """Logits, float32 [N, classes], of one or several pictures of any size.

        Args:
            images: an image of Pillow's, an array of raw pixels uint8 [H, W], [H, W, C] or [N, H, W, C], or a sequence
                of such.
            labelled: gives (class, probability) of all classes instead for each picture, the best first.

        Raises:
            FsgError: something else, or Pillow is missing where a picture has to be resized.
        """
        several: Sequence[object] = images if isinstance(images, Sequence) else [images]
        ready = [self._fitted(pixels, name) for pixels, name in _pictures(several)]
        logits = self.logits(np.stack(ready)) if ready else np.empty((0, len(self.classes)), np.float32)
        return self.ranked(logits) if labelled else logits

    def logits(self, images: Pixels) -> Logits:
        """Of raw images uint8 [N, C, H, W] in the network's own size."""
        chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
        return np.concatenate([scores(self._network, chunk, len(self.classes)) for chunk in chunks])

    def ranked(self, logits: Logits) -> list[Ranking]:
        """(class, probability) for each row of logits, the best first."""
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        chances = powers / powers.sum(axis=1, keepdims=True)
        orders = np.argsort(-logits, axis=1, kind="stable")  # of equal ones the first, as argmax has it
        return [[(self.classes[i], float(row[i])) for i in order] for row, order in zip(chances, orders, strict=True)]

    def predictions(self, files: Sequence["File"], *, keep: bool = False) -> Iterator[list["Prediction | FsgError"]]:
        """What is seen on pictures in files, or why a file cannot be read, in their order and a batch at a time.

        The next batch is decoded while the network computes. With `keep` a prediction has the picture's pixels.
        """
        size = KEPT if keep else BATCH

        def read(file: File) -> tuple[Pixels, Pixels | None] | FsgError:
            try:
                pixels = read_picture(file.source, file.name)
                return self._fitted(pixels, file.name), pixels if keep else None
            except FsgError as error:
                return error

        with ThreadPoolExecutor() as pool:
            try:
                batches = [files[start : start + size] for start in range(0, len(files), size)]
                coming = pool.map(read, batches[0]) if batches else iter(())
                for number in range(len(batches)):
                    found = list(coming)
                    coming = pool.map(read, batches[number + 1]) if number + 1 < len(batches) else iter(())
                    yield self._predicted(found)
            finally:
                pool.shutdown(cancel_futures=True)

    def _predicted(self, found: list[tuple[Pixels, Pixels | None] | FsgError]) -> list["Prediction | FsgError"]:
        ready = [entry[0] for entry in found if not isinstance(entry, FsgError)]
        rankings = iter(self.ranked(self.logits(np.stack(ready))) if ready else ())
        return [entry if isinstance(entry, FsgError) else Prediction(next(rankings), entry[1]) for entry in found]

    def _fitted(self, pixels: Pixels, name: str) -> Pixels:
        crop = self._network.metadata.get("fit") == "crop"
        return fitted(pixels, self._network.input_shape, name, crop=crop)


class File(NamedTuple):
    """A picture to read, and what it is called in messages."""

    source: Path | IO[bytes]
    name: str


class Prediction(NamedTuple):
    """(class, probability) of a picture, the best first; its `pixels` [H, W, 3] as people see it, if wanted."""

    ranking: Ranking
    pixels: Pixels | None


def load(path: str | Path, *, num_threads: int = 1) -> Model:
    """Opens a .tflite, .onnx, .fsg or .c file of `fsg export` as a function of pictures: `fsg.load(path)(images)`.

    Errors: FsgError, see `open_model`; and for a file that does not say how to normalise images.
    """
    return Model(open_model(path, num_threads=num_threads))


def _is_pillows(image: object) -> "TypeGuard[Image]":
    """Whoever has an image of Pillow's has imported it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(image, module.Image)


def _pictures(several: Iterable[object]) -> Iterator[tuple[Pixels, str]]:
    """Each picture as uint8 [H, W, C], and what it is called in messages."""
    for number, image in enumerate(several):
        name = f"image {number}"
        if _is_pillows(image):
            yield as_seen(image, name), name
        elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3, 4) and image.size:
            batch = image[None, ..., None] if image.ndim == 2 else image[None] if image.ndim == 3 else image
            yield from ((pixels, name) for pixels in batch)
        else:
            what = (
                f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
            )
            raise FsgError(
                f"{name}: is {what}; give an image of Pillow's, or raw pixels uint8 [H, W], [H, W, C] or [N, H, W, C]"
            )
