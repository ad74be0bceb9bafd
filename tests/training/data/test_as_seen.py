"""Images of a folder arrive as people see them, none is left out in silence; mirroring is said before it is done."""

import numpy as np
import pytest
from dataset_files import refusal, save_npz
from PIL import Image

from fsg.training.data.augment import described, mirror_images, with_augmentation
from fsg.training.data.load import load_dataset

SEEN = np.zeros((6, 8, 3), np.uint8)  # a red corner at the top left, a blue stripe at the bottom
SEEN[:2, :3] = (255, 0, 0)
SEEN[5:] = (0, 0, 255)
TURNS = {  # how a camera stores what it marks with this EXIF orientation
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


def folder_with(tmp_path, write):
    """A folder data set of one class, whose images `write` makes under a path without suffix."""
    for part in ("train", "test"):
        (tmp_path / part / "only").mkdir(parents=True)
        (tmp_path / part / "other").mkdir(parents=True)
        Image.fromarray(SEEN).save(tmp_path / part / "other" / "plain.png")
        write(tmp_path / part / "only" / "image")
    return load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation(tmp_path, suffix, orientation):
    def write(path):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](SEEN)))
        how = (
            {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {"lossless": True} if suffix == ".webp" else {}
        )
        stored.save(path.with_suffix(suffix), exif=exif, **how)

    data = folder_with(tmp_path, write)
    np.testing.assert_allclose(data.x_train[0].transpose(1, 2, 0).astype(int), SEEN, atol=60 if suffix == ".jpg" else 0)
    assert "2 images turned as their EXIF orientation says" in data.notes


@pytest.mark.parametrize("orientation", [0, 1, 9, 200])
def test_what_turns_nothing_is_not_said_to(tmp_path, orientation):
    def write(path):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(SEEN).save(path.with_suffix(".png"), exif=exif)

    data = folder_with(tmp_path, write)
    np.testing.assert_array_equal(data.x_train[0].transpose(1, 2, 0), SEEN)
    assert data.notes == ()


def with_alpha(mode):
    alpha = np.full((6, 8, 1), 255, np.uint8)
    alpha[2:5] = 0  # what is black in SEEN: through it one sees the page
    image = Image.fromarray(np.concatenate([SEEN, alpha], 2))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_is_white(tmp_path, mode):
    data = folder_with(tmp_path, lambda path: with_alpha("RGBA").convert(mode).save(path, format="TIFF"))
    assert (data.x_train[0][:, 2:5] == 255).all() and (data.x_train[0][:, :2] < 255).any()
    assert "2 images laid on white where they are transparent" in data.notes


def test_a_palette_with_a_transparent_colour(tmp_path):
    def write(path):
        image = Image.fromarray(SEEN).convert("P", palette=Image.Palette.ADAPTIVE)
        image.info["transparency"] = image.getpixel((7, 3))
        image.save(path.with_suffix(".png"), transparency=image.getpixel((7, 3)))

    data = folder_with(tmp_path, write)
    assert (data.x_train[0][:, 3, 7] == 255).all() and data.x_train[0][2, 5, 0] > 200


def test_cmyk_and_one_bit_are_colours(tmp_path):
    data = folder_with(tmp_path, lambda path: Image.fromarray(SEEN).convert("CMYK").save(path.with_suffix(".tif")))
    np.testing.assert_array_equal(data.x_train[0].transpose(1, 2, 0), SEEN)
    one_bit = folder_with(tmp_path / "b", lambda path: Image.new("1", (8, 6), 1).save(path.with_suffix(".png")))
    assert (one_bit.x_train[0] == 255).all()


def test_more_than_eight_bits_are_refused_by_name(tmp_path):
    deep = Image.fromarray(np.full((6, 8), 40_000, np.uint16))
    with refusal("image.png", "more than 8 bits"):
        folder_with(tmp_path, lambda path: deep.save(path.with_suffix(".png")))


def test_of_what_moves_the_first_picture_is_taken(tmp_path):
    def write(path):
        others = [Image.new("RGB", (8, 6), "green")]
        Image.fromarray(SEEN).save(path.with_suffix(".gif"), save_all=True, append_images=others)

    data = folder_with(tmp_path, write)
    np.testing.assert_array_equal(data.x_train[0].transpose(1, 2, 0), SEEN)
    assert any("animated, of which the first picture was taken" in note for note in data.notes)


def test_images_in_subfolders_and_of_any_name_are_read_and_others_are_told(tmp_path):
    def write(path):
        (path.parent / "deep" / "er").mkdir(parents=True)
        (path.parent / ".hidden").mkdir()
        image = Image.fromarray(SEEN)
        image.save(path, format="PNG")
        image.save(path.parent / "a.JFIF", format="JPEG")
        image.save(path.parent / "deep" / "er" / "B.PNG", format="PNG")
        image.save(path.parent / ".hidden" / "c.png")
        (path.parent / "notes.txt").write_text("not an image")
        (path.parent / "Thumbs.db").write_bytes(bytes(100))

    data = folder_with(tmp_path, write)
    assert (data.y_train == 0).sum() == 3 and (data.y_train == 1).sum() == 1
    (note,) = [note for note in data.notes if "passed over" in note]
    assert note.startswith("4 files passed over, such as ") and "which is no image that Pillow can read" in note


def test_what_pillow_only_writes_and_what_is_in_no_class_is_told(tmp_path):
    def write(path):
        Image.fromarray(SEEN).save(path.with_suffix(".png"))
        path.with_suffix(".pdf").write_bytes(b"%PDF-1.4")
        Image.fromarray(SEEN).save(path.parent.parent / "loose.png")

    data = folder_with(tmp_path, write)
    assert len(data.x_train) == 2
    assert data.notes == (f"4 files passed over, such as {tmp_path}/train/loose.png, which is in no class",)


def test_linked_folders_are_read_once(tmp_path):
    """Also where a link leads back to the folders of all classes, whose images are not of this one."""

    def write(path):
        store = tmp_path / "store"
        store.mkdir(exist_ok=True)
        Image.fromarray(SEEN).save(store / "image.png")
        for name, target in (("first", store), ("second", store), ("up", path.parent.parent)):
            (path.parent / name).symlink_to(target, target_is_directory=True)

    data = folder_with(tmp_path, write)
    assert data.y_train.tolist() == [0, 1]


def test_a_file_that_claims_to_be_an_image_must_be_one(tmp_path):
    with refusal("image.png", "not a readable image"):
        folder_with(tmp_path, lambda path: path.with_suffix(".png").write_text("no"))


@pytest.mark.parametrize("shape", [(5, 32, 30, 4), (5, 40, 32, 32), (5, 20, 3, 20), (5, 16, 16, 4), (5, 8, 8, 2)])
def test_arrays_whose_axes_are_in_another_order_are_refused(tmp_path, shape):
    images, labels = np.zeros(shape, np.uint8), np.zeros(5, int)
    save_npz(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with refusal("x_test", f"{shape[1]} channels", "[N,C,H,W]"):
        load_dataset(f"npz:{tmp_path / 'a.npz'}")


# --- mirroring --------------------------------------------------------------------------------------------


def arrows(tmp_path, count=30):
    """Arrows to the left and to the right, and crosses, which are their own mirror images."""
    rng = np.random.default_rng(0)
    shapes = np.zeros((3, 9, 9), int)
    shapes[0, 4, 1:8] = shapes[0, 3:6, 2] = shapes[0, 2:7, 3] = 200
    shapes[1] = shapes[0, :, ::-1]
    shapes[2, 4, 1:8] = shapes[2, 1:8, 4] = 200
    labels = np.arange(3 * count) % 3
    images = (shapes[labels] + rng.integers(0, 50, (3 * count, 9, 9))).astype(np.uint8)
    names = np.array(["left", "right", "cross"])
    save_npz(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, class_names=names)
    return load_dataset(f"npz:{tmp_path / 'a.npz'}")


def test_classes_that_are_mirror_images_are_found(tmp_path):
    assert mirror_images(arrows(tmp_path)) == [("left", "right")]
    assert mirror_images(load_dataset("digits")) == []


@pytest.mark.parametrize(
    ("settings", "pad", "flip"),
    [
        ({}, 1, False),
        ({"flip": "yes"}, 1, True),
        ({"flip": "yes", "crop": 0}, 0, True),
        ({"crop": 3}, 3, False),
        ({"augment": False, "flip": "yes", "crop": 3}, 0, False),
    ],
)
def test_what_is_done_to_images_is_what_was_asked_for_and_said(tmp_path, settings, pad, flip):
    data = with_augmentation(arrows(tmp_path), **{"augment": True, "crop": -1, "flip": "auto", **settings})
    assert (data.pad, data.flip) == (pad, flip)
    assert ("mirrored" in described(data), "shifted" in described(data)) == (flip, pad > 0)


def test_a_crop_leaves_half_of_the_image(tmp_path):
    data = load_dataset("digits")
    assert with_augmentation(data, augment=True, crop=16, flip="auto").pad == 16
    assert with_augmentation(data, augment=False, crop=17, flip="auto").pad == 0
    with refusal("--crop 17", "32x32", "at most 16"):
        with_augmentation(data, augment=True, crop=17, flip="auto")


def test_test_images_of_classes_without_training_images_are_refused(tmp_path):
    images = np.zeros((4, 3, 8, 8), np.uint8)
    save_npz(tmp_path / "a.npz", x_train=images, y_train=[0, 1, 0, 1], x_test=images, y_test=[0, 1, 3, 2])
    with refusal("label 2", "y_train"):
        load_dataset(f"npz:{tmp_path / 'a.npz'}")
