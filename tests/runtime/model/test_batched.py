"""Files rewritten for several images at once, for `fsg bench --batch`."""

import numpy as np
import pytest
import torch
from torch import nn

from fsg import FsgError
from fsg.export.pipeline import export_model
from fsg.runtime.model.batch import write_batched
from fsg.runtime.model.session import open_model
from fsg.training.layers import BinaryConv2d


class Shuffled(nn.Module):
    """Reshapes, a transpose, a slice and a concatenation, with a constant; a dense layer of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.binary = nn.Conv2d(3, 24, 3, padding=1), BinaryConv2d(24, 24, 3, padding=1)
        self.dense, self.last = nn.Linear(24, 6), nn.Linear(6 * 20, 5)
        self.register_buffer("place", torch.randn(1, 2, 5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.binary(self.first(x))
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = torch.cat([x[:, :7], x[:, 7:22] * 2, self.place.expand(n, -1, -1, -1)], 1)
        return self.last(self.dense(x.permute(0, 2, 3, 1)).flatten(1))


@pytest.fixture(scope="module", params=["plain", "shuffled", "integers"])
def exported(request, tmp_path_factory):
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), BinaryConv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Shuffled() if request.param == "shuffled" else plain
    folder = tmp_path_factory.mktemp("batched")
    how = {"int8": "layers"} if request.param == "integers" else {}
    images = np.random.default_rng(0).standard_normal((16, 3, 5, 4), np.float32)
    if request.param != "shuffled":
        images = images.repeat(3, 2).repeat(2, 3)
    export_model(network.eval(), images.shape[1:], folder, images=images, writer="direct", **how)
    return folder


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
@pytest.mark.parametrize("batch", [2, 7])
def test_a_batch_gives_what_its_images_give(exported, tmp_path, suffix, batch):
    path, target = exported / f"model.{suffix}", tmp_path / f"other.{suffix}"
    write_batched(path, batch, target)
    one, several = open_model(path), open_model(target)
    assert (one.batch, several.batch) == (1, batch) and several.input_shape == one.input_shape
    images = np.random.default_rng(5).standard_normal((9, *one.input_shape), np.float32)
    np.testing.assert_allclose(several(images), one(images), rtol=1e-3, atol=1e-4)
    assert several.metadata == one.metadata


def test_what_cannot_be_batched(exported, tmp_path, monkeypatch):
    with pytest.raises(FsgError, match=r"which \.tflite and \.onnx files can"):
        (tmp_path / "model.c").write_text("")
        write_batched(tmp_path / "model.c", 4, tmp_path / "other.c")
    with pytest.raises(FsgError, match="with 0 images at once; give at least 1"):
        write_batched(exported / "model.tflite", 0, tmp_path / "none.tflite")
    write_batched(exported / "model.tflite", 3, tmp_path / "three.tflite")
    with pytest.raises(FsgError, match="for it takes 3: export it with --batch 1"):
        write_batched(tmp_path / "three.tflite", 2, tmp_path / "two.tflite")
    write_batched(tmp_path / "three.tflite", 3, tmp_path / "same.tflite")
    assert (tmp_path / "same.tflite").read_bytes() == (tmp_path / "three.tflite").read_bytes()
    monkeypatch.setattr("fsg.runtime.model.batch.CLOSE", -1.0)
    with pytest.raises(FsgError, match="would be others; export it with --batch 4"):
        write_batched(exported / "model.tflite", 4, tmp_path / "four.tflite")
