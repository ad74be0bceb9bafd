"""Colours, sizes and captions of pictures."""

import numpy as np
import pytest
from PIL import Image

from fsg import FsgError
from fsg.runtime.pictures import captioned, fitted, resize

RNG = np.random.default_rng(0)
COLOURED = RNG.integers(0, 256, (9, 7, 3), np.uint8)


def test_grey_is_pillows_grey_and_grey_in_colour_is_three_times_the_same():
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(1, -1, 3).astype(np.uint8)
    grey = fitted(every, (1, 1, every.shape[1]), "")
    np.testing.assert_array_equal(grey[0], np.asarray(Image.fromarray(every).convert("L")))
    again = fitted(grey.transpose(1, 2, 0), (3, 1, every.shape[1]), "")
    np.testing.assert_array_equal(again, np.repeat(grey, 3, 0))


def test_what_fits_is_as_it_was_and_what_is_transparent_is_white():
    np.testing.assert_array_equal(fitted(COLOURED, (3, 9, 7), ""), COLOURED.transpose(2, 0, 1))
    alpha = np.full((9, 7, 1), 255, np.uint8)
    alpha[2] = 0
    found = fitted(np.concatenate([COLOURED, alpha], 2), (3, 9, 7), "")
    assert (found[:, 2] == 255).all()
    np.testing.assert_array_equal(found[:, 3:], COLOURED.transpose(2, 0, 1)[:, 3:])
    four = RNG.integers(0, 256, (9, 7, 4), np.uint8)
    np.testing.assert_array_equal(fitted(four, (4, 9, 7), ""), four.transpose(2, 0, 1))
    with pytest.raises(FsgError, match="mine: has 5 channels, but the network takes 3"):
        fitted(np.zeros((9, 7, 5), np.uint8), (3, 9, 7), "mine")


@pytest.mark.parametrize(
    ("size", "method"), [((4, 3), "BOX"), ((4, 7), "BILINEAR"), ((18, 3), "BILINEAR"), ((20, 30), "BILINEAR")]
)
def test_resizing_averages_where_both_sides_shrink(size, method):
    expected = Image.fromarray(COLOURED).resize(size[::-1], Image.Resampling[method])
    np.testing.assert_array_equal(fitted(COLOURED, (3, *size), ""), np.asarray(expected).transpose(2, 0, 1))
    many = RNG.integers(0, 256, (5, 2, 9, 7), np.uint8)
    np.testing.assert_array_equal(resize(many, *size, "")[3, 1], resize(many[3, 1], *size, ""))


@pytest.mark.parametrize("shape", [(5, 3), (300, 200)])
def test_a_caption_is_beneath_the_whole_picture(shape):
    pixels = RNG.integers(0, 256, (*shape, 3), np.uint8)
    found = np.asarray(captioned(pixels, ["größer 98.1%", "a class with a long name that goes on and on 0.1%"]))
    factor = 54 if shape == (5, 3) else 1
    picture = pixels.repeat(factor, 0).repeat(factor, 1)
    left = (found.shape[1] - picture.shape[1]) // 2
    np.testing.assert_array_equal(found[: picture.shape[0], left : left + picture.shape[1]], picture)
    lines = found[picture.shape[0] :]
    assert (lines < 128).any() and (lines[:, -1] == 255).all() and (lines[-1] == 255).all()
