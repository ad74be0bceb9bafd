"""Small networks in which float32 arithmetic is exact, so that every runtime must agree to the last bit.

All weights are multiples of a small power of two. Ties, values that are exactly zero before a sign, are therefore
common, and no rounding decides them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fsg.export.formats.c.write import to_c
from fsg.export.graph import BinaryGraph
from fsg.export.reference import run_graph
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLayer, BinaryLinear
from fsg.training.networks.network import named_model


def exact(model: nn.Module, seed: int = 0) -> nn.Module:
    """Sets every weight and statistic of a model at random, in evaluation mode."""
    rng = np.random.default_rng(seed)

    def fill(tensor: Tensor | None, values: Any) -> None:
        if tensor is not None:
            tensor.copy_(torch.from_numpy(np.broadcast_to(values, tensor.shape).astype(np.float32)))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                n = module.num_features
                module.eps = 0.0
                fill(module.running_var, 4.0 ** rng.integers(-1, 2, n))
                fill(module.running_mean, rng.integers(-8, 9, n) / 4)
                fill(module.weight, rng.choice([-2, -1, -0.5, 0, 0.5, 1, 2], n))
                fill(module.bias, rng.integers(-8, 9, n) / 4)
            elif isinstance(module, BinaryLayer):
                signs = rng.choice([-1, 1], module.weight.shape)
                scale = 2.0 ** rng.integers(-2, 1, len(module.weight))
                fill(module.weight, signs * scale.reshape(-1, *[1] * (signs.ndim - 1)))
                fill(getattr(module, "bias", None), rng.integers(-4, 5, len(module.weight)) / 4)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                fill(module.weight, rng.integers(-4, 5, module.weight.shape) / 4)
                fill(module.bias, rng.integers(-4, 5, len(module.weight)) / 4)
    return model.eval()


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Random images of multiples of 1/8; the first is zero and the second minus zero."""
    values = np.random.default_rng(seed).integers(-16, 17, (count, *shape)).astype(np.float32) / 8
    values[0] = 0.0
    values[1] = -0.0
    return torch.from_numpy(values)


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def result(graph: BinaryGraph, x: Tensor) -> Tensor:
    return torch.from_numpy(run_graph(graph, x.numpy())[graph.nodes[-1].name])


def assert_same(got: Any, expected: Any, what: str = "") -> None:
    """Equal but for the rounding of a mean or of a long float sum."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-5, atol=1e-5, err_msg=what)


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 7)]


class Functions(nn.Module):
    """Joined channels and a mean that flattens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.sign = nn.Conv2d(3, 5, 1), BinaryConv2d(8, 6, 3, padding=1), BinaryActivation()

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([x, self.a(x)], 1)
        return torch.cat([self.b(self.sign(joined)), joined], 1).mean((2, 3))


class Joined(nn.Module):
    """Binary layers on joined signs, some behind a max pool and one behind a flattening; one sign is read alone too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(BinaryActivation(), BinaryConv2d(3, n, 3, padding=1)) for n in (5, 8))
        self.sign, self.pool, self.mean = BinaryActivation(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.conv, self.dense, self.flatten = BinaryConv2d(18, 6, 3, padding=1), BinaryLinear(12, 7), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.sign(self.a(x)), self.sign(self.b(x))
        joined = torch.cat([self.pool(torch.cat([a, b], 1)), self.pool(a)], 1)
        y = self.mean(self.conv(joined))
        return self.dense(torch.cat([self.flatten(self.sign(y)), self.sign(self.flatten(y))], 1))


def random_network(seed: int, *, one_bit: bool = True) -> tuple[nn.Module, tuple[int, int, int]]:
    """A sequential network that ends in logits, and its input shape."""
    rng = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    shape = (channels, height, width) = pick(1, 2, 3, 4), int(rng.integers(7, 14)), int(rng.integers(7, 14))
    layers: list[nn.Module] = []
    for _ in range(pick(2, 3)):
        kernel, stride, padding, dilation = pick(1, 3, 5), pick(1, 2, 3), pick(0, 1, 2), pick(1, 2)
        reach = dilation * (kernel - 1) + 1
        if reach > min(height, width) + 2 * padding:
            continue
        new = pick(3, 8, 16, 31, 33, 48)
        size: tuple[Any, ...] = (channels, new, kernel, stride, padding, dilation)
        if rng.random() < 0.3:
            layers.append(nn.Conv2d(*size, bias=pick(True, False)))
        else:
            if one_bit:
                layers.append(BinaryActivation())
                if min(height, width) > reach + 1 and rng.random() < 0.3:
                    layers.append(nn.MaxPool2d(2, 1))
                    height, width = height - 1, width - 1
            quantizer = pick("dorefa", "scaled-sign", "irnet")
            layers.append(BinaryConv2d(*size, quantizer=quantizer, padding_value=pick(1.0, 1.0, 0.0, -1.0)))
        channels = new
        height, width = ((n + 2 * padding - reach) // stride + 1 for n in (height, width))
        layers += pick([], [nn.BatchNorm2d(channels)], [nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])
        layers += pick([], [nn.ReLU()], [nn.Dropout(), nn.Identity()])
        if min(height, width) >= 2 and rng.random() < 0.3:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    layers += [nn.AdaptiveAvgPool2d(1), *pick([], [BinaryActivation()] if one_bit else []), nn.Flatten()]
    layers += pick(
        [nn.Linear(channels, 7)],
        [BinaryLinear(channels, 7)],
        [nn.BatchNorm1d(channels), BinaryActivation(), BinaryLinear(channels, 7, quantizer="scaled-sign")],
    )
    return exact(nn.Sequential(*layers), seed), shape


def resnet20(**how: Any) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network with exact weights, and the shape of its images; `how` are settings of its layers."""
    torch.manual_seed(0)
    how = {"activation_bits": 1, "first_last": "float", **how}
    return exact(named_model("resnet20", shape=(3, 32, 32), classes=10, **how)), (3, 32, 32)


RESNETS = {
    "W1A1": resnet20,
    "W1A32": lambda: resnet20(activation_bits=32),
    "all binary": lambda: resnet20(first_last="binary"),
}


def write_c(graph: BinaryGraph, folder: Path, metadata: dict[str, Any] | None = None) -> Path:
    """Writes model.c and model.h of a graph; where the first is."""
    path = folder / "model.c"
    source, header = to_c(graph, metadata or {})
    path.write_text(source)
    path.with_suffix(".h").write_text(header)
    return path
