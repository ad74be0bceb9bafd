"""A checkpoint is read as it was written, or not at all."""

import json

import numpy as np
import pytest
import torch

from fsg import FsgError
from fsg.training.checkpoint import CHECKPOINT, read_checkpoint, save_checkpoint
from fsg.training.data.archives import is_damaged
from fsg.training.networks.weights import read_weights

CONTENT = {"model": {"a": torch.arange(40.0), "b": torch.ones(3, 3, dtype=torch.int64)}, "rows": [{"x": 1.0}]}


def same(one, other):
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    return one == other


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_no_byte_of_a_checkpoint_can_change_what_is_read(tmp_path, mask):
    save_checkpoint(tmp_path, CONTENT)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    expected = read_checkpoint(tmp_path)
    assert same(expected, {"format": expected["format"], **CONTENT})
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        try:
            assert same(read_checkpoint(tmp_path), expected), position
        except FsgError as error:
            assert f"cannot read {path}: it is " in str(error)
            refused += 1
    assert refused > len(whole) / 3


def test_a_flipped_bit_of_a_weight_is_told_everywhere(tmp_path):
    save_checkpoint(tmp_path, CONTENT)
    path = tmp_path / CHECKPOINT
    damaged = bytearray(path.read_bytes())
    place = damaged.index(np.arange(40, dtype=np.float32).tobytes()) + 77
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(FsgError, match=r"checkpoint\.pt: it is damaged; restore it from a copy, or train anew"):
        read_checkpoint(tmp_path)
    with pytest.raises(FsgError, match=r"teacher .*checkpoint\.pt: the file is damaged; restore it from a copy"):
        read_weights(path, "teacher")


def test_what_is_no_archive_is_not_called_damaged(tmp_path):
    torch.save(CONTENT["model"], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert not is_damaged(tmp_path / "old.pth") and not is_damaged(tmp_path / "nothing") and not is_damaged(tmp_path)
    assert read_weights(tmp_path / "old.pth")[0]["a"].tolist() == list(range(40))


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_eval_says_when_a_file_is_not_the_one_that_was_exported(fsg, tmp_path, monkeypatch, suffix):
    path = tmp_path / "run" / "export" / f"model.{suffix}"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"flipped")
    artefact = {"path": f"elsewhere/{path.name}", "format": suffix, "sha256": "0" * 64}
    (path.parent / "report.json").write_text(json.dumps({"artefacts": [artefact]}))
    result = {"dataset": "digits", "accuracy": 0.5, "samples": 4, "confusion": [[1, 1], [1, 1]]}
    result |= {"class_names": ["a", "b"]}
    monkeypatch.setattr("fsg.training.evaluate.evaluate_on", lambda *_, **__: result)
    code, out, err = fsg("eval", path, "--json")
    assert code == 0 and {name: json.loads(out)[name] for name in result} == result
    assert f"{path} is not the file that fsg export checked" in err
