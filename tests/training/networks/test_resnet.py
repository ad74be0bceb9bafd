"""Networks by name, and weights of full-precision ones."""

import pytest
import torch
import torch.nn.functional as F

from fsg import FsgError
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, Shift, binary_layers, count_parameters
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


@pytest.mark.parametrize("first_last", ["float", "binary"])
def test_thresholds_are_shifts_of_channels_before_their_signs(first_last):
    torch.manual_seed(0)
    plain = build_model("resnet8", classes=5, first_last=first_last)
    model = build_model("resnet8", classes=5, first_last=first_last, thresholds=True)
    missing, unknown = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unknown and all(name.endswith(".shift") for name in missing)
    activations = sum(isinstance(module, BinaryActivation) for module in model.modules())
    assert len(missing) == activations == (8 if first_last == "binary" else 6)
    images = torch.randn(4, 3, 9, 8)
    assert torch.equal(model.eval()(images), plain.eval()(images))  # they start at 0

    block, x = model.layer2[0], torch.randn(4, 16, 5, 4)
    shifts = torch.randn(16), torch.randn(32)
    for sign, shift in zip((block.sign1, block.sign2), shifts, strict=True):
        sign[0].shift.data.copy_(shift)

    def bits(x, shift):
        return torch.where(x + shift[None, :, None, None] >= 0, 1.0, -1.0)

    y = block.bn1(block.conv1(bits(x, shifts[0]))) + block.downsample(x)
    torch.testing.assert_close(block(x), block.bn2(block.conv2(bits(y, shifts[1]))) + y)


def test_a_shift_learns_through_its_sign():
    shift, x = Shift(2), torch.tensor([[0.5, -0.25], [2.0, 0.75]])
    shift.shift.data = torch.tensor([0.25, -0.25])
    y = BinaryActivation()(shift(x))
    assert y.tolist() == [[1, -1], [1, 1]]
    y.sum().backward()  # 2 - 2 |x + t| up to 1
    torch.testing.assert_close(shift.shift.grad, torch.tensor([0.5, 1.0 + 1.0]))


@pytest.mark.parametrize("bits", [1, 32])
def test_a_shortcut_behind_a_pool_has_the_names_and_shapes_of_one_with_a_stride(bits):
    torch.manual_seed(0)
    plain = build_model("resnet8", classes=5, activation_bits=bits)
    model = build_model("resnet8", classes=5, activation_bits=bits, shortcut_pool=True)
    model.load_state_dict(plain.state_dict())
    for name, block in (("layer2", model.layer2[0]), ("layer3", model.layer3[0])):
        weight = plain.get_submodule(name)[0].downsample[0].weight
        for size in ((8, 6), (7, 5), (1, 1)):
            x = torch.randn(2, weight.shape[1], *size)
            rows, columns = (-(-length // 2) for length in size)
            means = torch.stack(
                [
                    x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((2, 3))
                    for row in range(rows)
                    for column in range(columns)
                ],
                2,
            )
            expected = block.eval().downsample[-1](F.conv2d(means.view(2, -1, rows, columns), weight))
            torch.testing.assert_close(block.downsample(x), expected, rtol=1e-5, atol=1e-5)
            assert block(x).shape == expected.shape
    assert isinstance(model.layer1[0].downsample, torch.nn.Identity)


def test_initial_weights_of_the_plain_network_suit_one_of_the_recipe(tmp_path):
    source, path = build_model("resnet8", classes=10, activation_bits=32).state_dict(), tmp_path / "weights.pth"
    torch.save(source, path)
    model = build_model("resnet8", classes=10, thresholds=True, shortcut_pool=True)
    load_initial_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in source.items())
    own = model.state_dict()
    own["layer1.0.sign1.0.shift"] += 1
    torch.save(own, path)
    load_initial_weights(model, path)
    assert model.layer1[0].sign1[0].shift.eq(1).all()


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
