"""Binary layers that do not run on bits are named, with the reason."""

import pytest
import torch
from networks import Joined, exact
from rich.console import Console
from torch import nn

from fsg.export.artefacts import not_on_bits
from fsg.export.recognise import simplify
from fsg.export.table import export_table
from fsg.export.trace import trace
from fsg.runtime.model.exported import DEPTHWISE, float_layers
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d


class Net(nn.Module):
    """A binary layer on what `combine` makes of the image and a function that takes signs."""

    def __init__(self, channels, combine):
        super().__init__()
        self.stem, self.sign = nn.Conv2d(3, 3, 1), BinaryActivation()
        self.layer, self.combine = BinaryConv2d(channels, 4, 1), combine

    def forward(self, x):
        return self.layer(self.combine(self.stem(x), self.sign))


@pytest.mark.parametrize(
    ("channels", "combine", "reason"),
    [
        (3, lambda x, sign: sign(x) + sign(x), "a sum"),
        (3, lambda x, sign: nn.functional.avg_pool2d(sign(x), 2), "an average"),
        (3, lambda x, sign: sign(x).mean((2, 3), keepdim=True), "an average"),
        (3, lambda x, sign: x, "another layer's output"),
        (3, lambda x, sign: nn.functional.relu(x), "what ReLU gives"),
        (3, lambda x, sign: nn.functional.max_pool2d(sign(x) + x, 2), "a sum"),
        (6, lambda x, sign: torch.cat([sign(x), sign(x) + x], 1), "a concatenation of signs and a sum"),
        (6, lambda x, sign: torch.cat([sign(x), sign(x)], 1), ""),
        (3, lambda x, sign: sign(x), ""),
    ],
)
def test_reasons(channels, combine, reason):
    graph = simplify(trace(Net(channels, combine), (3, 6, 6)))
    assert not_on_bits(graph) == ({"layer": reason} if reason else {})


def test_the_image_is_a_reason_and_joined_signs_are_none():
    graph = simplify(trace(nn.Sequential(BinaryConv2d(3, 4, 1), nn.BatchNorm2d(4)), (3, 6, 6)))
    assert not_on_bits(graph) == {"0": "the image"}
    assert not_on_bits(simplify(trace(exact(Joined()), (3, 8, 8)))) == {}
    depthwise = nn.Sequential(BinaryActivation(), BinaryConv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4))
    assert not_on_bits(simplify(trace(depthwise, (4, 6, 6)))) == {"1": DEPTHWISE}


def test_layers_are_grouped_by_reason():
    layers = {**{f"block{i}": "a sum" for i in range(6)}, "b": "an average"}
    assert float_layers({"not_on_bits": layers, "activation_bits": 1}) == [
        "not on bits, for the input is a sum and no sign: block0, block1, block2, block3 and 2 more",
        "not on bits, for the input is an average and no sign: b",
    ]
    assert float_layers({"not_on_bits": {"c": DEPTHWISE}}) == ["not on bits, having one channel in each group: c"]
    assert float_layers({"not_on_bits": layers, "activation_bits": 32}) == float_layers({}) == []


@pytest.mark.parametrize(("bits", "size", "told"), [(32, 288_000, True), (32, 220_000, True), (1, 22_800, False)])
def test_the_table_says_where_a_file_saves_nothing(bits, size, told):
    verify = {"samples": 9, "accuracy": 1.0, "torch_accuracy": 1.0, "top1_agreement": 1.0}
    verify |= {"class_median_abs_diff": 1e-7, "limit": 1e-4}
    artefact = {"format": "tflite", "writer": "direct", "path": "export/model.tflite", "size_bytes": size}
    artefact["verify"] = verify
    report = {"layers": {"bitwise": 0, "float": 4}, "dataset": "digits", "hypernetwork_parameters_discarded": 0}
    report |= {"activation_bits": bits, "float_size_bytes": 228_000, "artefacts": [artefact]}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(export_table(report))
    assert ("the 228.0 kB of float32: for 32-bit activations a .tflite stores" in capture.get()) == told
