"""A network from LCE's own converter runs in the stock interpreter and agrees with TensorFlow."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest

from fsg import FsgError
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts

pytest.importorskip("larq_compute_engine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lce")
    script = Path(oracle.__file__).with_name("convert_with_lce.py")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_network_agrees_with_tensorflow(folder):
    counts = op_counts(folder / "model.tflite")
    assert counts["LceBconv2d"] == 4
    assert counts["LceQuantize"] == 2  # two of the four inputs arrive packed
    assert counts["LceBMaxPool2d"] == 1
    assert counts["CONV_2D"] == 1  # the stem
    session = open_model(folder / "model.tflite")
    with np.load(folder / "expected.npz") as expected:
        scores = session(expected["images"].transpose(0, 3, 1, 2))
        np.testing.assert_allclose(scores, expected["scores"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_stock_interpreter_refuses_the_same_file(folder):
    with pytest.raises(FsgError, match="Lce"):
        open_model(folder / "model.tflite", delegate=False)
