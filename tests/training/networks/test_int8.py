"""Float layers trained as they are exported: rounded weights and values, on learnt grids."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fsg import FsgError
from fsg.runtime.model.grids import grid_of
from fsg.training.methods.base import STE
from fsg.training.networks.int8 import choose_ranges, int8_aware
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, FakeQuantize, RoundedLayer, grids
from fsg.training.networks.resnet import build_model


def resnet(**options):
    torch.manual_seed(0)
    return int8_aware(build_model("resnet8", classes=10, channels=3, **options))


def images(count=16):
    return torch.from_numpy(np.random.default_rng(0).standard_normal((count, 3, 8, 8), np.float32))


def quantizers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantize)}


@pytest.mark.parametrize("step", [0.0314159, 3.0, 1e-4])
@pytest.mark.parametrize("zero", [-128, -3, 127])
def test_values_are_on_the_grid(step, zero):
    quantizer = FakeQuantize()
    quantizer.take(step, zero)
    assert (np.float32(quantizer.step).view(np.uint32) & 0xFFFF) == 0 and abs(quantizer.step / step - 1) < 2**-8
    assert quantizer.zero == zero
    x = torch.linspace(-200, 200, 999)[None] * quantizer.step
    step = np.float32(quantizer.step)
    meant = (np.clip(np.rint(x.numpy() * (1 / step)) + zero, -128, 127) - zero).astype(np.float32) * step
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), meant)


def test_gradients_are_those_of_lsq():
    quantizer = FakeQuantize()
    quantizer.take(0.5, 10)
    x = torch.tensor([[0.6, -100.0, 200.0]], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [[1, 0, 0]]
    scale = 1 / np.sqrt(127 * 3)
    wanted = ((1 - 1.2) + (-128 - 10) + (127 - 10)) * scale * 0.5 * np.log(2)
    assert float(quantizer.log_step.grad) == pytest.approx(wanted, rel=1e-5)
    assert float(quantizer.offset.grad) == pytest.approx(-2 * 0.5 * scale, rel=1e-5)


def test_weights_are_rounded_with_a_straight_gradient():
    model = resnet()
    for layer in (module for module in model.modules() if isinstance(module, RoundedLayer)):
        rounded = layer.rounded_weight()
        rows = rounded.detach().flatten(1)
        whole = rows / rows.abs().amax(1, keepdim=True) * 127
        assert (whole - whole.round()).abs().max() < 1e-3 and not torch.equal(rounded, layer.weight)
        rounded.sum().backward()
        assert (layer.weight.grad == 1).all()


def test_which_values_are_rounded():
    shortcuts = [f"layer{i}.0.downsample.0_{end}" for i in (2, 3) for end in ("gives", "reads")]
    for bits in (1, 32):
        model = resnet(activation_bits=bits)
        assert sorted(quantizers(model)) == ["conv1_gives", "conv1_reads", *shortcuts]
        assert sum(isinstance(module, RoundedLayer) for module in model.modules()) == 4
        plain = build_model("resnet8", classes=10, channels=3, activation_bits=bits).state_dict()
        assert plain.keys() == {name for name in model.state_dict() if "log_step" not in name and "offset" not in name}
        assert model.conv1_gives.rectified == (bits == 32)
    nothing = nn.Sequential(BinaryActivation(), BinaryConv2d(3, 8, 1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(FsgError, match="--int8-aware: the network has no float layer of 256 weights or more"):
        int8_aware(nothing)


def test_depthwise_layers_only_where_they_read_integers_and_pools_keep_them():
    model = nn.Sequential(
        *(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, groups=32, bias=False), nn.Conv2d(32, 16, 1), nn.Flatten(), nn.Linear(16, 40)),
    )
    model = int8_aware(model)
    assert list(quantizers(model)) == ["1_reads", "1_gives", "5_gives", "6_gives"]
    assert [model.get_submodule(f"{i}_gives").rectified for i in (1, 5, 6)] == [True, False, False]


def test_ranges_are_chosen_by_images_and_learnt():
    model = resnet()
    before = copy.deepcopy(model.state_dict())
    choose_ranges(model, images())
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert {name.rpartition(".")[0] for name in changed} == set(quantizers(model))
    assert (model.conv1_reads.step, model.conv1_reads.zero) == grid_of(images().numpy())
    rule = STE(model, lr=0.01, weight_decay=1.0)
    assert {id(p) for p in grids(model)} <= {id(p) for p in rule.optimizer.param_groups[1]["params"]}
    steps = [quantizer.log_step for quantizer in quantizers(model).values()]
    start = [step.item() for step in steps]
    for _ in range(2):
        nn.functional.cross_entropy(model(images()), torch.arange(16) % 10).backward()
        rule.step()
    assert all(step.item() != old for step, old in zip(steps, start, strict=True))
