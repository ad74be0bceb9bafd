"""Pictures as people see them, in the colours and the size that a network takes. Pillow is imported when needed."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError, why

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
ORIENTATION = 0x0112  # the EXIF tag
GREY = np.array([19595, 38470, 7471], np.uint32)  # Pillow's weights of red, green and blue, in 65536ths
KINDS = {"1": "black and white", "L": "grey", "LA": "grey", "P": "with a palette", "PA": "with a palette"}
CAPTION_WIDTH = 160  # pixels: a smaller picture is enlarged, or its caption could not be read


def pillow(who: str) -> Any:
    """The module PIL.Image; FsgError for `who` needs it where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise FsgError(f"{who} needs Pillow ({why(error)}): pip install pillow") from error
    return Image


def read_picture(source: Path | IO[bytes], name: object, **how: Any) -> Pixels:
    """The picture in a file as `as_seen` has it. Errors: FsgError that begins with `name`."""
    image = pillow(f"{name}: reading pictures")
    try:
        with image.open(source) as opened:
            return as_seen(opened, name, **how)
    except FsgError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
        raise FsgError(f"{name}: not a readable image ({why(error)}); replace or remove it") from error


def as_seen(
    image: "Image",
    name: object,
    *,
    saw: Callable[[str], object] = lambda what: None,
    check: Callable[[tuple[int, int]], object] = lambda size: None,
) -> Pixels:
    """An image of Pillow's as people see it, uint8 [H, W, 3].

    Turned by its EXIF orientation, on white where it is transparent, of an animated one the first picture, in RGB;
    `saw` is told. `check` may raise an FsgError for the (width, height), before the rest is done.
    Errors: FsgError that begins with `name`, for more than 8 bits per channel.
    """
    from PIL import Image, ImageOps

    if getattr(image, "n_frames", 1) > 1:
        saw("animated, of which the first picture was taken")
    turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)  # before loading, which turns a TIFF by itself
    image = ImageOps.exif_transpose(image)
    if turned:
        saw("turned as their EXIF orientation says")
    check(image.size)
    if image.mode not in ("RGB", "RGBA"):
        saw(f"{KINDS.get(image.mode, image.mode)}, taken as RGB")
    # Pillow clips these modes at 255 instead of scaling them: most pictures would come out white.
    if image.mode[0] in "IF":
        raise FsgError(f"{name}: has more than 8 bits per channel; save it with 8")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            saw("laid on white where they are transparent")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def fitted(pixels: Pixels, shape: tuple[int, int, int], name: object, *, crop: bool = False) -> Pixels:
    """A picture [H, W, C] as a network takes it, of `shape` (C, H, W).

    Stretched where it has other proportions; with `crop`, a network of square images gets its middle instead.

    Errors: FsgError that begins with `name` where no conversion between the colours is known.
    """
    channels, height, width = shape
    if pixels.shape[2] in (2, 4) and channels in (1, 3):  # the last is how opaque they are
        pixels = as_seen(pillow(f"{name}: transparency").fromarray(pixels), name)
    if (pixels.shape[2], channels) == (3, 1):
        pixels = ((pixels @ GREY + 0x8000) >> 16).astype(np.uint8)[..., None]
    elif (pixels.shape[2], channels) == (1, 3):
        pixels = np.repeat(pixels, 3, axis=2)
    elif pixels.shape[2] != channels:
        raise FsgError(f"{name}: has {pixels.shape[2]} channels, but the network takes {channels}")
    images, who = pixels.transpose(2, 0, 1), f"{name}: resizing"
    return to_square(images, height, who) if crop and height == width else resize(images, height, width, who)


def to_square(images: Pixels, side: int, who: str) -> Pixels:
    """The middle of images [..., H, W], `resize`d to `side` pixels a side: their shorter sides stay whole."""
    height, width = images.shape[-2:]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    return resize(images[..., top : top + least, left : left + least], side, side, who)


def resize(images: Pixels, height: int, width: int, who: str) -> Pixels:
    """Images [..., H, W] in another size: averaged where they shrink both ways, else interpolated.

    Errors: FsgError without Pillow, for `who` needs it.
    """
    size = images.shape[-2:]
    if size == (height, width):
        return images
    image = pillow(who)
    shrinks = height < size[0] and width < size[1]
    method = image.Resampling.BOX if shrinks else image.Resampling.BILINEAR
    result = np.empty((*images.shape[:-2], height, width), np.uint8)
    for source, target in zip(images.reshape(-1, *size), result.reshape(-1, height, width), strict=True):
        target[:] = image.fromarray(source).resize((width, height), method)
    return result


def picture_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures in a folder and its subfolders, and the other files; both sorted, hidden ones left out.

    A picture is what has a suffix of one, and what Pillow knows by its content. Errors: FsgError for a folder that
    cannot be read.
    """
    image = pillow(f"{folder}: reading pictures")

    def broken(error: OSError) -> None:
        raise error

    try:
        found = sorted(Path(place) / name for place, names in _walk(folder, broken) for name in names)
    except OSError as error:
        raise FsgError(f"{folder}: cannot be read ({why(error)}); make it readable") from error
    known = {suffix for suffix, form in image.registered_extensions().items() if form in image.OPEN}
    pictures: list[Path] = []
    others: list[Path] = []
    for path in found:
        (pictures if path.suffix.lower() in known or _is_picture(path) else others).append(path)
    return pictures, others


def _walk(folder: Path, broken: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """`folder` and every folder below it, with its files; hidden ones are left out.

    Links to folders are followed, but to none twice, and to none that holds `folder`.
    """
    top = os.path.realpath(folder)
    seen = {top}
    for place, folders, names in os.walk(folder, onerror=broken, followlinks=True):
        visible, folders[:] = sorted(name for name in folders if name[0] != "."), []
        for name in visible:
            real = os.path.realpath(os.path.join(place, name))
            if real not in seen and not top.startswith(real + os.sep):
                folders.append(name)
                seen.add(real)
        yield place, [name for name in names if name[0] != "."]


def _is_picture(path: Path) -> bool:
    try:
        with pillow(str(path)).open(path):
            return True
    except Exception:  # Pillow's decoders raise nearly anything
        return False


def captioned(pixels: Pixels, lines: Sequence[str]) -> "Image":
    """A picture [H, W, 3] with lines of text beneath it; a small one is enlarged by a whole number."""
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, -(-CAPTION_WIDTH // pixels.shape[1]))
    picture = Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))
    size = max(12, picture.width // 24)
    try:
        font = ImageFont.load_default(size)
        font.getbbox("\n".join(lines))
    except (TypeError, ImportError, UnicodeError):  # Pillow 10.0, or one without FreeType: letters of Latin-1 alone
        font, size = ImageFont.load_default(), 12
        lines = [line.encode("latin-1", "replace").decode("latin-1") for line in lines]
    height, gap = size * 4 // 3, size // 3
    width = max(picture.width, *(int(font.getlength(line)) + 2 * gap for line in lines))
    result = Image.new("RGB", (width, picture.height + height * len(lines) + 2 * gap), "white")
    result.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(result)
    for number, line in enumerate(lines):
        draw.text((gap, picture.height + gap + number * height), line, "black", font)
    return result
