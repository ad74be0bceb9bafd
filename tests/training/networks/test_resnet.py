"""Networks by name, and weights of full-precision ones."""

import pytest
import torch

from fsg import FsgError
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, binary_layers, count_parameters
from fsg.training.networks.resnet import build_model
from fsg.training.networks.summary import summarize
from fsg.training.networks.weights import load_initial_weights
from fsg.training.registry import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_depth_and_shapes(name):
    model = build_model(name, classes=7)
    convolutions = sum(isinstance(module, BinaryConv2d) for module in model.modules())
    assert convolutions + 2 == int(name.removeprefix("resnet"))  # the first convolution and the classifier are float
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize("bits", [1, 32])
@pytest.mark.parametrize("first_last", ["float", "binary"])
def test_binary_layers_see_what_the_settings_promise(bits, first_last):
    model = build_model("resnet20", classes=10, activation_bits=bits, first_last=first_last)
    layers = binary_layers(model)
    assert ("conv1" in layers and "fc" in layers) == (first_last == "binary")
    seen = []
    for layer in layers.values():
        layer.register_forward_hook(lambda module, inputs, output: seen.append(bool((inputs[0].abs() == 1).all())))
    model(torch.randn(2, 3, 32, 32))
    assert seen == [bits == 1] * len(layers)


def test_binary_network_has_the_parameters_of_the_published_one():
    binary, floats = count_parameters(build_model("resnet20", classes=10))
    assert (binary, floats) == (267264, 432 + 512 + 2048 + 2 * (7 * 16 + 7 * 32 + 7 * 64) + 650)


def test_initial_weights(tmp_path):
    source = build_model("resnet20", classes=10, activation_bits=32).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(source, path)
    for first_last in ("float", "binary"):
        model = build_model("resnet20", classes=10, first_last=first_last)
        load_initial_weights(model, path)
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in source.items())

    with pytest.raises(FsgError, match=r"fc.weight is \[10, 64\], the model needs \[3, 64\]"):
        load_initial_weights(build_model("resnet20", classes=3), path)
    with pytest.raises(FsgError, match=r"lacks layer1\.3"):
        load_initial_weights(build_model("resnet32", classes=10), path)
    with pytest.raises(FsgError, match="no such file"):
        load_initial_weights(model, tmp_path / "nowhere.pth")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FsgError, match="not a state dict"):
        load_initial_weights(model, path)


def test_summary_counts_operations_by_hand():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), BinaryActivation(), BinaryConv2d(8, 4, 3, stride=2), torch.nn.Flatten()
    )
    first, second = summarize(model, (3, 9, 9))
    assert (first.float_macs, first.binary_macs) == (9 * 9 * 8 * 27, 0)
    assert (second.float_macs, second.binary_macs) == (0, 4 * 4 * 4 * 72)
    assert (second.binary_parameters, second.memory_bytes, second.output_shape) == (288, 36, (4, 4, 4))
    float_input = torch.nn.Sequential(BinaryConv2d(3, 4, 3))
    assert summarize(float_input, (3, 5, 5))[0].binary_macs == 0
