"""What a BinaryGraph means, in plain PyTorch operations: the reference for passes and writers."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fsg.export import graph as g
from fsg.export.elementwise import OPERATORS


@torch.no_grad()
def run_graph(graph: g.BinaryGraph, images: Tensor) -> dict[str, Tensor]:
    """Every node's value, by name, for normalised images [N, C, H, W]."""
    values = {graph.nodes[0].name: images}
    for node in graph.nodes[1:]:
        values[node.name] = _compute(node, [values[name] for name in node.inputs])
    return values


def _compute(node: g.Node, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match node:
        case g.Sign():
            return torch.where(x < 0, -1.0, 1.0)
        case g.Negative():
            return (x * -node.gain).clamp(0, 6)
        case g.Conv():
            return _conv2d(x, _tensor(node.weight), node, node.padding) + _per_channel(node.bias, x)
        case g.BinaryConv():
            sums = _conv2d(_pad(x, node.padding, node.padding_value), _tensor(node.signs()), node, (0, 0))
            return sums * _per_channel(node.scale, x) + _per_channel(node.bias, x)
        case g.Dense():
            return x @ _tensor(node.weight).T + _tensor(node.bias)
        case g.BinaryDense():
            return x @ _tensor(node.signs()).T * _tensor(node.scale) + _tensor(node.bias)
        case g.Affine():
            return x * _per_channel(node.scale, x) + _per_channel(node.bias, x)
        case g.Elementwise():
            return _tensor(OPERATORS[node.operator].compute(x.numpy(), node.settings).astype(np.float32))
        case g.Add():
            return x + inputs[1]
        case g.Concat():
            return torch.cat(inputs, 1)
        case g.Pad():
            return _pad(x, node.padding, node.value)
        case g.MaxPool():
            return F.max_pool2d(x, node.kernel, node.stride, node.padding)
        case g.AveragePool():
            return F.avg_pool2d(x, node.kernel, node.stride, node.padding)
        case g.MeanPool():
            return x.mean((2, 3), keepdim=len(node.shape) == 4)
        case g.Reshape():
            return x.reshape(len(x), *node.shape[1:])
    raise TypeError(f"no meaning for {type(node).__name__} {node.name}")


def _conv2d(x: Tensor, weight: Tensor, node: g.Convolution, padding: g.Pair) -> Tensor:
    return F.conv2d(x, weight, None, node.stride, padding, node.dilation, node.groups)


def _pad(x: Tensor, padding: g.Pair, value: float) -> Tensor:
    rows, columns = padding
    return F.pad(x, (columns, columns, rows, rows), value=value)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)


def _per_channel(array: np.ndarray, like: Tensor) -> Tensor:
    return _tensor(array).view(-1, *[1] * (like.dim() - 2))
