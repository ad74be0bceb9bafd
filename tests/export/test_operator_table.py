"""docs/export.md says what the code does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import operator_table
import pytest
from torch import nn

from fsg import FsgError
from fsg.export.elementwise import OPERATORS
from fsg.export.reading.rules import REFUSED
from fsg.export.reading.table import ENTRIES
from fsg.export.trace import trace

from .patterns import Do

ROOT = Path(__file__).parents[2]
FEATURES = dict(batch_first=True)
LAYERS = {  # those that are not made of 4 channels and a kernel of 1, or do not take an image
    **{name: lambda make: Do(lambda m, x: m.f(x.flatten(2))[0], f=make(120, 4)) for name in ("LSTM", "GRU", "RNN")},
    "MultiheadAttention": lambda make: Do(lambda m, x: m.f(*[x.flatten(2)] * 3)[0], f=make(120, 2, **FEATURES)),
    "Transformer": lambda make: Do(lambda m, x: m.f(x.flatten(2), x.flatten(2)), f=make(120, 2, 1, 1, **FEATURES)),
    "TransformerEncoder": lambda make: Do(
        lambda m, x: m.f(x.flatten(2)), f=make(nn.TransformerEncoderLayer(120, 2, **FEATURES), 1)
    ),
    "TransformerEncoderLayer": lambda make: Do(lambda m, x: m.f(x.flatten(2)), f=make(120, 2, **FEATURES)),
    "LocalResponseNorm": lambda make: make(2),
    "Unfold": lambda make: make(3),
    "Fold": lambda make: Do(lambda m, x: m.f(x.flatten(2)), f=make((12, 10), 1)),
}
FUNCTIONS = {
    "einsum": (lambda f, x: f("nchw,ndhw->ncd", x, x),),
    "argmax topk sort argsort": (lambda f, x: f(x, 1),),
    "std": (lambda f, x: f(x, 1),),
    "norm": (lambda f, x: f(x),),
    "masked_fill": (lambda f, x: f(x, x > 0, 0.0),),
    "unfold": (lambda f, x: f(x, 3),),
    "max_pool1d avg_pool1d": (lambda f, x: f(x.flatten(2), 2),),
    "max_pool3d avg_pool3d": (lambda f, x: f(x, 2),),
    "long int": (lambda f, x: f(x),),
    "local_response_norm": (lambda f, x: f(x, 2),),
    "scaled_dot_product_attention": (lambda f, x: f(x, x, x),),
}


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """torch warns of what is old."""


def test_the_table_is_the_codes():
    documented = operator_table.parts(operator_table.DOCUMENT.read_text())[1]
    wanted = operator_table.table()
    assert documented == wanted, "docs/export.md is old: python tests/support/operator_table.py --write"
    assert "| no | no |" not in wanted  # everything has a format


def test_every_name_is_torchs():
    for entry in ENTRIES:
        assert set(entry.layers) - set(operator_table.layers_of(entry)) <= OPERATORS.keys()
        assert all(map(operator_table.function, entry.functions)), entry.functions
        assert operator_table.layers_of(entry) or entry.functions
    for name in " ".join(REFUSED).split():
        assert operator_table.layer(name) or operator_table.function(name), name


def test_no_name_has_two_rules():
    names = [name for entry in ENTRIES for name in (*entry.layers, *entry.functions)] + " ".join(REFUSED).split()
    assert len(names) == len(set(names))


def refused(names, made):
    with pytest.raises(FsgError) as caught:
        trace(made, operator_table.SHAPE)
    assert str(caught.value).endswith(f": {REFUSED[names]}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("names", REFUSED)
def test_what_is_refused_says_what_to_do_instead(names):
    for name in names.split():
        make = getattr(nn, name, None)
        if name in LAYERS:
            refused(names, nn.Sequential(LAYERS[name](make)))
        elif make is not None and name[-2:] in ("1d", "3d"):
            flat = nn.Flatten(2) if name.endswith("1d") else nn.Identity()
            refused(names, nn.Sequential(flat, make(1) if "Pool" in name else make(4, 4, 1)))
        for keys, calls in FUNCTIONS.items():
            if name in keys.split():
                refused(names, operator_table.Calls(operator_table.function(name), calls[0]))


def test_the_worked_example_works(tmp_path):
    (diff,) = re.findall(r"```diff\n(.*?)```", operator_table.DOCUMENT.read_text(), re.DOTALL)
    package = tmp_path / "fsg"
    package.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("export", "runtime") and (path.suffix == ".py" or (path / "__init__.py").exists()):
            (package / path.name).symlink_to(path)
    (package / "runtime").mkdir()
    for path in (ROOT / "runtime").iterdir():
        if path.name != "model":
            (package / "runtime" / path.name).symlink_to(path)
    for path in sorted([*(ROOT / "export").rglob("*.py"), *(ROOT / "runtime" / "model").rglob("*.py")]):
        copy = package / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=package, check=True)
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import torch
from pathlib import Path
from torch import nn
from torch.nn import functional as F
import fsg.export.elementwise
assert fsg.export.elementwise.__file__.startswith({str(tmp_path)!r})
from fsg.export.formats.onnx import to_onnx
from fsg.export.formats.packed import to_packed
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.runtime.model.session import open_model

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.CELU(), nn.CELU(0.3)

    def forward(self, x):
        return self.first(x) + 2 * self.second(x) + F.celu(x, 2.0)

x = 3 * torch.randn(3, 3, 4, 4)
graph = simplify(trace(Net(), (3, 4, 4)))
writers = {{"m.onnx": to_onnx(graph, {{}}), "m.tflite": to_tflite_direct(graph), "m.fsg": to_packed(graph, {{}})}}
for name, content in writers.items():
    path = Path({str(tmp_path)!r}) / name
    path.write_bytes(content)
    found = torch.from_numpy(open_model(path)(x.numpy())).reshape(x.shape)
    torch.testing.assert_close(found, Net()(x), rtol=1e-5, atol=1e-5)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
