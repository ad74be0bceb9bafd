"""npz files and folders of images: what is read is what was written, and no damaged file gets through or does harm."""

from pathlib import Path

import numpy as np
import pytest
from dataset_files import Run, make_folder, pictures, refusal, save_npz
from PIL import Image

from fsg import FsgError
from fsg.runtime.pictures import fitted, read_picture
from fsg.training.data.load import load_dataset
from fsg.training.data.sets import DataOptions

# --- npz --------------------------------------------------------------------------------------------------


def test_npz_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = save_npz(path, class_names=np.array(["a", "b", "c", "never seen"]))
    loaded = load_dataset(f"npz:{path}")
    for key in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(loaded, key), arrays[key])
    assert loaded.y_test.dtype == np.int64
    assert loaded.class_names == ("a", "b", "c", "never seen") and loaded.num_classes == 4
    assert loaded.shape == (3, 8, 10) and loaded.name == f"npz:{path}"
    scaled = loaded.x_train / 255
    np.testing.assert_allclose(loaded.mean, scaled.mean(axis=(0, 2, 3)), atol=5.1e-5)
    np.testing.assert_allclose(loaded.std, scaled.std(axis=(0, 2, 3)), atol=5.1e-5)


def test_npz_layouts(tmp_path: Path) -> None:
    images = pictures(5, 3, 8, 10)
    labels = np.zeros(5, int)
    for given, expected in [
        (images.transpose(0, 2, 3, 1), images),
        (images[:, 0], images[:, :1]),
        (images[:, :1].transpose(0, 2, 3, 1), images[:, :1]),
        (images[:, :2], images[:, :2]),
        (images[:, :, :, :3], images[:, :, :, :3]),
    ]:
        save_npz(tmp_path / "a.npz", x_train=given, y_train=labels, x_test=given, y_test=labels)
        loaded = load_dataset(f"npz:{tmp_path / 'a.npz'}")
        assert np.array_equal(loaded.x_train, expected) and loaded.x_train.flags.c_contiguous
        assert loaded.num_classes == 1


def test_npz_with_a_test_part_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = save_npz(path, x_train=None, y_train=None)
    loaded = load_dataset(f"npz:{path}", test_only=True)
    assert np.array_equal(loaded.x_test, arrays["x_test"])
    assert loaded.x_train.shape == (0, 3, 8, 10) and loaded.y_train.shape == (0,)
    assert loaded.mean == loaded.std == () and loaded.num_classes == 3
    with refusal(path, "lacks x_train, y_train"):
        load_dataset(f"npz:{path}")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"y_test": None}, ("lacks y_test",)),
        ({"x_train": np.zeros((6, 3, 8, 10), np.float32)}, ("x_train is float32", "uint8")),
        ({"x_train": np.zeros((6, 240), np.uint8)}, ("x_train is uint8 [6, 240]",)),
        ({"x_test": np.zeros((0, 3, 8, 10), np.uint8)}, ("x_test", "non-empty")),
        ({"x_test": pictures(4, 3, 8, 8)}, ("[3, 8, 10] in x_train, but [3, 8, 8] in x_test",)),
        ({"y_train": np.zeros(6)}, ("y_train is float64", "integer labels")),
        ({"y_train": np.zeros((6, 1), int)}, ("y_train is int64 [6, 1]",)),
        ({"y_train": np.zeros(5, int)}, ("y_train has 5 labels for 6 images",)),
        ({"y_test": np.array([0, 1, -1, 0])}, ("y_test holds the label -1",)),
        ({"y_test": np.array([0, 1, 2**63, 0], np.uint64)}, ("y_test holds the label 9223372036854775808",)),
        ({"class_names": np.array(["a", "b"])}, ("the label 2 but 2 class_names",)),
        ({"class_names": np.array(["a", "b", "a"])}, ("has 'a' twice",)),
        ({"class_names": np.arange(3)}, ("class_names is int64 [3]", "strings")),
        ({"class_names": np.array(["a", "b", "c"], object)}, ("cannot be read", "allow_pickle")),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path: Path, changes: dict[str, object], parts: tuple[str, ...]) -> None:
    path = tmp_path / "a.npz"
    save_npz(path, **changes)
    with refusal(path, *parts):
        load_dataset(f"npz:{path}")


def test_an_npz_that_would_unpickle_code_does_not(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "trace"
    save_npz(path, x_test=np.array([Run(f"touch {trace}")] * 4, object))
    with refusal(path):
        load_dataset(f"npz:{path}")
    assert not trace.exists()


def test_a_missing_or_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with refusal(path, "No such file"):
        load_dataset(f"npz:{path}")
    with refusal(tmp_path, "directory"):
        load_dataset(f"npz:{tmp_path}")
    save_npz(path)
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with refusal(path, "not an .npz file"):
            load_dataset(f"npz:{path}")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with refusal("b.npy", "not an .npz file"):
        load_dataset(f"npz:{tmp_path / 'b.npy'}")


def test_any_flipped_byte_in_an_npz_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_npz(path)
    whole = path.read_bytes()
    intact = load_dataset(f"npz:{path}")
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            loaded = load_dataset(f"npz:{path}")
        except FsgError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert np.array_equal(loaded.x_test, intact.x_test)


# --- folders of images ------------------------------------------------------------------------------------


def test_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "train" / "ant" / ".DS_Store").write_bytes(b"no image")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    calls: list[tuple[int, int]] = []
    loaded = load_dataset(f"folder:{tmp_path}", progress=lambda done, total: calls.append((done, total)))
    assert loaded.class_names == ("ant", "bee") and loaded.shape == (3, 5, 6)
    assert loaded.y_train.tolist() == [0, 0, 0, 1, 1, 1] and loaded.y_test.tolist() == [0, 0, 1, 1]
    with Image.open(tmp_path / "train" / "bee" / "1.png") as image:
        assert np.array_equal(loaded.x_train[4], np.asarray(image).transpose(2, 0, 1))
    with Image.open(tmp_path / "test" / "ant" / "1.png") as image:
        assert np.array_equal(loaded.x_test[1], np.asarray(image).transpose(2, 0, 1))
    assert calls == [(6, 10), (10, 10)]
    assert len(loaded.mean) == 3


def test_folder_larger_than_a_chunk_keeps_every_image_in_its_place(tmp_path: Path) -> None:
    for part, count in (("train", 600), ("test", 1)):
        (tmp_path / part / "only").mkdir(parents=True)
        for number in range(count):
            colour = (number % 256, number // 256, 7)
            Image.new("RGB", (2, 3), colour).save(tmp_path / part / "only" / f"{number:04}.bmp")
    loaded = load_dataset(f"folder:{tmp_path}")
    assert np.array_equal(loaded.x_train[:, 0, 0, 0] + 256 * loaded.x_train[:, 1, 2, 1].astype(int), np.arange(600))
    assert np.all(loaded.x_train[:, 2] == 7)


def test_folder_takes_grey_and_palette_images_as_rgb(tmp_path: Path) -> None:
    make_folder(tmp_path, ("a",))
    grey = Image.fromarray(pictures(5, 6))
    grey.save(tmp_path / "test" / "a" / "0.png")
    Image.new("P", (6, 5), 0).save(tmp_path / "test" / "a" / "1.gif")
    loaded = load_dataset(f"folder:{tmp_path}")
    assert np.array_equal(loaded.x_test[0], np.stack([np.asarray(grey)] * 3))


def test_folder_with_a_test_part_alone(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    loaded = load_dataset(f"folder:{tmp_path}", test_only=True)
    assert loaded.class_names == ("ant", "bee") and loaded.x_test.shape == (4, 3, 5, 6)
    assert loaded.x_train.shape == (0, 3, 5, 6) and loaded.mean == ()
    with refusal(tmp_path / "train", "no such folder", f"put images of every class into {tmp_path / 'train'}/CLASS"):
        load_dataset(f"folder:{tmp_path}")


def test_wrong_folders_are_refused_by_name(tmp_path: Path) -> None:
    spec = f"folder:{tmp_path}"
    with refusal(tmp_path / "train", "no such folder"):
        load_dataset(spec)
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "train" / "ant").mkdir()
    with refusal(tmp_path / "test", "has no folders"):
        load_dataset(spec)
    (tmp_path / "test").rmdir()
    (tmp_path / "train" / "ant").rmdir()
    (tmp_path / "train").rmdir()
    make_folder(tmp_path)

    (tmp_path / "test" / "wasp").mkdir()
    with refusal(tmp_path / "test" / "wasp", "no such class"):
        load_dataset(spec)
    (tmp_path / "train" / "wasp").mkdir()
    with refusal(tmp_path / "train" / "wasp", "has no images"):
        load_dataset(spec)
    (tmp_path / "test" / "wasp").rmdir()
    with refusal(tmp_path / "test" / "wasp", "is missing"):
        load_dataset(spec)


def test_images_that_cannot_be_read_are_left_out_and_told(tmp_path: Path) -> None:
    make_folder(tmp_path)
    whole_set = load_dataset(f"folder:{tmp_path}")
    path = tmp_path / "test" / "bee" / "1.png"
    whole = path.read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2], whole[:20] + b"\xff" * 20 + whole[40:]):
        path.write_bytes(damaged)
        data = load_dataset(f"folder:{tmp_path}")
        assert np.array_equal(data.x_test, whole_set.x_test[:3]) and data.y_test.tolist() == [0, 0, 1]
        (note,) = data.notes
        assert note.startswith(f"1 file left out that cannot be used, such as {path}: not a readable image")
    Image.fromarray(np.full((5, 6), 40_000, np.uint16)).save(path)
    (tmp_path / "train" / "ant" / "0.png").write_bytes(b"")
    data = load_dataset(f"folder:{tmp_path}")
    assert np.array_equal(data.x_train, whole_set.x_train[1:]) and data.y_train.tolist() == [0, 0, 1, 1, 1]
    assert data.notes[0].startswith("2 files left out") and data.notes[0].endswith("replace or remove it")
    (tmp_path / "test" / "bee" / "0.png").write_bytes(b"no image")
    with refusal(tmp_path / "test" / "bee" / "0.png", "not a readable image", "(1 more files of this class cannot"):
        load_dataset(f"folder:{tmp_path}")


def test_images_of_several_sizes_are_refused_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in ("ant/1.png", "bee/1.png"):
        Image.new("RGB", (7, 5)).save(tmp_path / "test" / name)
    odd = tmp_path / "train" / "ant" / "2.png"
    Image.new("RGB", (9, 9)).save(odd)
    first = tmp_path / "train" / "ant" / "0.png"
    seven = f"2 of 7x5 such as {tmp_path / 'test' / 'ant' / '1.png'}"
    with refusal(f"{first}: is 6x5 pixels, but there are {seven}, 1 of 9x9 such as {odd}; give --image-size N"):
        load_dataset(f"folder:{tmp_path}")
    with refusal("give --fit crop"):
        load_dataset(f"folder:{tmp_path}", options=DataOptions(image_size=4, fit="stretch"))
    with refusal("2 of 7x5 such as", "; resize all to one size"):
        load_dataset(f"folder:{tmp_path}", test_only=True)


def test_images_of_several_sizes_are_cropped_and_resized(tmp_path: Path) -> None:
    make_folder(tmp_path, size=(8, 8))
    wide, tall = np.zeros((4, 12, 3), np.uint8), np.zeros((24, 8, 3), np.uint8)
    wide[:, 4:8], tall[8:16] = (200, 100, 50), (1, 2, 3)
    Image.fromarray(wide).save(tmp_path / "train" / "ant" / "0.png")
    Image.fromarray(tall).save(tmp_path / "test" / "bee" / "1.png")
    Image.fromarray(tall[8:16, :, 0]).save(tmp_path / "test" / "bee" / "0.png")
    data = load_dataset(f"folder:{tmp_path}", options=DataOptions(image_size=4))
    assert data.shape == (3, 4, 4)
    assert np.unique(data.x_train[0].reshape(3, -1), axis=1).T.tolist() == [[200, 100, 50]]
    assert np.unique(data.x_test[3].reshape(3, -1), axis=1).T.tolist() == [[1, 2, 3]]
    assert data.notes == (
        "the middle of images of 12x4 to 8x24 pixels resized to 4x4",
        "1 image grey, taken as RGB",
    )
    alone = load_dataset(f"folder:{tmp_path}", options=DataOptions(image_size=4), test_only=True)
    assert np.array_equal(alone.x_test, data.x_test)


@pytest.mark.parametrize("size", [(30, 17), (17, 30), (6, 5), (40, 40)])
def test_a_picture_is_predicted_as_it_was_trained_on(tmp_path: Path, size: tuple[int, int]) -> None:
    make_folder(tmp_path, size=size)
    path = tmp_path / "test" / "ant" / "0.png"
    for fit in ("crop", "stretch"):
        data = load_dataset(f"folder:{tmp_path}", options=DataOptions(image_size=8, fit=fit))
        found = fitted(read_picture(path, path), data.shape, path, crop=fit == "crop")
        assert np.array_equal(found, data.x_test[0])


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (("train", "dev"), "{0}/test: no such folder; rename {0}/dev to test"),
        (("Train", "validation"), "{0}/train: no such folder; rename {0}/Train to train"),
        (("training", "test"), "{0}/train: no such folder; rename {0}/training to train"),
        (
            ("ant", "bee"),
            "{0}/test: no such folder; give --split 0.2 to test on a fifth of the images of each class in {0}, or put"
            " some into {0}/test/CLASS and the others into {0}/train/CLASS",
        ),
        (
            ("train",),
            "{0}/test: no such folder; give --split 0.2 to test on a fifth of the images of each class in {0}/train, or"
            " put some into {0}/test/CLASS",
        ),
    ],
)
def test_folders_of_nearly_the_right_names(tmp_path: Path, names: tuple[str, ...], remedy: str) -> None:
    for name in names:
        (tmp_path / name / "ant").mkdir(parents=True)
    with refusal(remedy.format(tmp_path)):
        load_dataset(f"folder:{tmp_path}")
