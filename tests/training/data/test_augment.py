"""Batches, and images that are shifted and mirrored."""

import hypothesis
import numpy as np
import torch
from dataset_files import pictures, refusal
from hypothesis import strategies as st

from fsg.training.data.augment import apply_changes, augment, batches, draw_changes
from fsg.training.data.feed import apply_changes_on_device


def test_batches_cover_everything_once() -> None:
    whole = list(batches(10, 4, None, False))
    assert [b.tolist() for b in whole] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.tolist() for b in batches(10, 4, None, True)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(list(batches(8, 4, None, True))) == 2
    shuffled = np.concatenate(list(batches(100, 7, np.random.default_rng(1), False)))
    assert sorted(shuffled) == list(range(100)) and shuffled.tolist() != list(range(100))
    again = np.concatenate(list(batches(100, 7, np.random.default_rng(1), False)))
    assert np.array_equal(shuffled, again)


def test_batch_sizes_that_make_no_batch_are_refused_at_once() -> None:
    for batch_size, drop_last in ((0, False), (-1, True), (11, True)):
        with refusal(f"batch size {batch_size}", "1 to 10"):
            batches(10, batch_size, None, drop_last)
    assert [len(b) for b in batches(10, 11, None, False)] == [10]


def test_augment_crops_and_mirrors_each_image_for_itself() -> None:
    images = pictures(300, 3, 5, 7)
    result = augment(images, np.random.default_rng(3), pad=2, flip=True)
    assert result.shape == images.shape and result.dtype == np.uint8 and result.flags.c_contiguous
    found: dict[tuple[int, int, bool], int] = {}
    for image, changed in zip(images, result, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        crops = {
            (top, left, flipped): padded[:, top : top + 5, left : left + 7][:, :, :: -1 if flipped else 1]
            for top in range(5)
            for left in range(5)
            for flipped in (False, True)
        }
        (match,) = [key for key, crop in crops.items() if np.array_equal(crop, changed)]
        found[match] = found.get(match, 0) + 1
    # 50 equally likely outcomes, 300 draws: a missing or crowded one would be a biased draw.
    assert len(found) >= 46 and max(found.values()) <= 18
    assert 110 < sum(count for (_, _, flipped), count in found.items() if flipped) < 190


@hypothesis.given(
    count=st.integers(1, 5), channels=st.integers(1, 3), size=st.tuples(*[st.integers(1, 9)] * 2), pad=st.integers(0, 4)
)
@hypothesis.settings(deadline=None, max_examples=30)
def test_changes_on_a_device_and_of_a_part_are_those_of_the_whole(
    count: int, channels: int, size: tuple[int, int], pad: int
) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (2 * count, channels, *size), dtype=np.uint8)
    changes = draw_changes(2 * count, rng, pad=pad, flip=True)
    whole = apply_changes(images, changes, pad)
    part = slice(count, 2 * count)
    np.testing.assert_array_equal(apply_changes(images[part], changes.part(part), pad), whole[part])
    on_device = apply_changes_on_device(torch.from_numpy(images), changes, pad)
    np.testing.assert_array_equal(on_device.numpy(), whole)


def test_augment_without_changes_copies() -> None:
    images = pictures(4, 1, 5, 5)
    before = images.copy()
    result = augment(images, np.random.default_rng(0), pad=0, flip=False)
    assert np.array_equal(result, images) and not np.shares_memory(result, images)
    augment(images, np.random.default_rng(0), pad=3, flip=True)
    assert np.array_equal(images, before)


def test_augment_is_repeatable() -> None:
    images = pictures(20, 3, 8, 8)
    first, second = (augment(images, np.random.default_rng(5), pad=4, flip=True) for _ in range(2))
    assert np.array_equal(first, second)
