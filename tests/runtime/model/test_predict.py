"""`fsg.load`: a model file as a function of pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fsg
from fsg import FsgError
from fsg.runtime.model.evaluate import normalize
from fsg.runtime.model.session import open_model

EXPORT = Path(__file__).parents[2] / "golden" / "before_rooms" / "run" / "export"  # of a network of grey 8x8 digits
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 8, 8), np.uint8)


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def path(request):
    return EXPORT / f"model.{request.param}"


@pytest.fixture(scope="module")
def model(path):
    return fsg.load(path)


@pytest.fixture(scope="module")
def expected(path):
    session = open_model(path)
    return session(normalize(IMAGES[:, None], session.metadata["mean"], session.metadata["std"]))


def test_it_says_what_it_takes_and_gives(model, path):
    assert isinstance(model, fsg.Model)
    assert model.shape == (8, 8, 1) and list(model.classes) == open_model(path).metadata["class_names"]


def test_all_ways_to_give_pictures_are_the_same(model, expected):
    in_colour = np.repeat(IMAGES[..., None], 3, 3)
    ways = {
        "[N, H, W, C]": IMAGES[..., None],
        "[N, H, W, 3]": in_colour,
        "list": list(IMAGES),
        "mixed": (IMAGES[0], IMAGES[1, ..., None], in_colour[2:4], Image.fromarray(IMAGES[4])),
        "Pillow's": [Image.fromarray(image).convert("RGB") for image in IMAGES],
    }
    for name, images in ways.items():
        logits = model(images)
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, expected, err_msg=name)
    for one in (IMAGES[0], IMAGES[0, ..., None], in_colour[0], Image.fromarray(IMAGES[0])):
        np.testing.assert_array_equal(model(one), expected[:1])
    assert model([]).shape == (0, len(model.classes)) and model([], labelled=True) == []


def test_pictures_of_other_sizes_are_resized_as_data_sets_are(model):
    large = RNG.integers(0, 256, (16, 24), np.uint8)
    small = np.asarray(Image.fromarray(large).resize((8, 8), Image.Resampling.BOX))
    np.testing.assert_array_equal(model(large), model(small))
    np.testing.assert_array_equal(model([large, IMAGES[0]]), model([small, IMAGES[0]]))


def test_a_picture_is_turned_as_people_see_it(model):
    stored = Image.fromarray(np.rot90(IMAGES[0], 1).copy())
    stored.getexif()[0x0112] = 6
    np.testing.assert_array_equal(model(stored), model(IMAGES[0]))


def test_labelled_are_the_probabilities_of_all_classes_the_best_first(model, expected):
    for ranking, logits in zip(model(list(IMAGES), labelled=True), expected, strict=True):
        powers = np.exp(logits.astype(float))
        names, chances = zip(*ranking, strict=True)
        assert names[0] == model.classes[logits.argmax()] and sorted(names) == sorted(model.classes)
        assert sum(chances) == pytest.approx(1) and list(chances) == sorted(chances, reverse=True)
        assert dict(ranking) == pytest.approx(dict(zip(model.classes, powers / powers.sum(), strict=True)))


def test_large_and_equal_logits_are_ranked_as_argmax_does(model):
    logits = np.zeros((1, len(model.classes)), np.float32)
    logits[0, [2, 4]] = 1e4
    assert model.ranked(logits)[0][:3] == [(model.classes[2], 0.5), (model.classes[4], 0.5), (model.classes[0], 0.0)]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES / 255, r"image 0: is float64 \[5, 8, 8\]; give an image of Pillow's, or raw pixels uint8"),
        ([IMAGES[0], None], "image 1: is a NoneType"),
        ("cat.png", "image 0: is a str"),
        (IMAGES[0, 0], r"is uint8 \[8\]"),
        (IMAGES[:0, ..., None], r"is uint8 \[0, 8, 8, 1\]"),
        (IMAGES, "image 0: has 8 channels, but the network takes 1"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_place(model, images, message):
    with pytest.raises(FsgError, match=message):
        model(images)


def test_a_file_without_names_numbers_its_classes_and_one_without_mean_is_refused(tmp_path):
    from fsg.runtime.model.metadata import add_tflite_metadata

    content, metadata = (EXPORT / "model.tflite").read_bytes(), open_model(EXPORT / "model.tflite").metadata
    del metadata["class_names"]
    (tmp_path / "a.tflite").write_bytes(add_tflite_metadata(content, metadata))
    model = fsg.load(tmp_path / "a.tflite")
    assert model.classes == tuple("0123456789")
    (tmp_path / "a.tflite").write_bytes(add_tflite_metadata(content, metadata | {"class_names": ["one"]}))
    with pytest.raises(FsgError, match="gives 10 scores for an image, but there are 1 classes"):
        fsg.load(tmp_path / "a.tflite")(IMAGES[0])
    del metadata["mean"]
    (tmp_path / "a.tflite").write_bytes(add_tflite_metadata(content, metadata))
    with pytest.raises(FsgError, match=r"a.tflite: says no mean and std"):
        fsg.load(tmp_path / "a.tflite")
    with pytest.raises(FsgError, match=r"missing\.onnx: no such file"):
        fsg.load(tmp_path / "missing.onnx")
