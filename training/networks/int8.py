"""Float layers that are trained as they are exported: on 8-bit integers, rounded in every forward pass.

The gradient goes straight through the rounding. Steps and zeros of the grids are learnt as in LSQ+ (Bhalgat et al.
2020, arXiv 2004.09576), steps as their logarithms (Jain et al. 2019, arXiv 1903.08066), so that Adam's steps of one
size suit all.
"""

import math
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fsg import FsgError
from fsg.runtime.model.grids import KEPT, LEAST, grid_of, is_worth_rounding, sums_fit
from fsg.training.networks.constant import unchanged
from fsg.training.networks.layers import FakeQuantize, RoundedConv2d, RoundedLayer, RoundedLinear
from fsg.training.networks.trace import Dropouts, Flow, Norms, has_hooks, traced

KEEPING = (*Dropouts, nn.MaxPool2d, nn.Flatten)
KEEPING_FUNCTIONS = (
    *(torch.max_pool2d, nn.functional.max_pool2d, torch.flatten, torch.reshape, torch.permute, torch.transpose),
    *("flatten", "view", "reshape", "permute", "transpose"),
)
"""What gives none but numbers that it reads."""
RELUS = (torch.relu, nn.functional.relu, "relu")


def int8_aware(model: nn.Module) -> nn.Module:
    """The network, as a torch.fx.GraphModule, with float layers as `fsg export --int8` makes them.

    Parameters keep their names; those of the grids are new. Weights are rounded; so is what layers read, unless it is
    on a grid, and what they give, behind a batch norm and a ReLU that alone read it. The layer that gives the result
    has rounded weights and nothing else. Errors: FsgError where the forward cannot be traced, and where there is no
    float layer of so many weights that integers would be worth it.
    """
    flow = Flow(traced(model, "train the model for int8"))
    _remove_identities(flow)
    layers = [node for node in flow.graph.nodes if _is_float(flow, node)]
    last = _resulting(flow)
    on_grid: set[fx.Node] = set()
    read: dict[fx.Node, fx.Node] = {}
    for node in list(flow.graph.nodes):
        if node in layers:
            layer: Any = flow.layer(node)
            source = node.args[0]
            worth = source in on_grid or is_worth_rounding(layer.weight.shape, getattr(layer, "groups", 1))
            whole = node is not last and _can(layer) and worth
            if whole or layer.weight.numel() >= LEAST:
                layer.__class__ = RoundedConv2d if isinstance(layer, nn.Conv2d) else RoundedLinear
            if not whole:
                continue
            if source not in on_grid:
                if source not in read:
                    read[source] = flow.insert(f"{node.target}_reads", FakeQuantize(), source)
                node.replace_input_with(source, read[source])
            end, rectified = _end(flow, node)
            users = list(end.users)
            given = flow.insert(f"{node.target}_gives", FakeQuantize(rectified), end)
            for user in users:
                user.replace_input_with(end, given)
            on_grid.add(given)
        elif flow.calls(node, KEEPING, KEEPING_FUNCTIONS) and node.args and node.args[0] in on_grid:
            on_grid.add(node)
    if not any(isinstance(module, RoundedLayer) for module in flow.module.modules()):
        raise FsgError(f"--int8-aware: the network has no float layer of {LEAST} weights or more: leave it away")
    flow.module.delete_all_unused_submodules()
    flow.graph.lint()
    flow.module.recompile()
    return flow.module.train(model.training)


def _remove_identities(flow: Flow) -> None:
    for node in list(flow.graph.nodes):
        if flow.calls(node, (nn.Identity,)):
            node.replace_all_uses_with(node.all_input_nodes[0])
            flow.graph.erase_node(node)


def _is_float(flow: Flow, node: fx.Node) -> bool:
    """Whether a step calls a float layer whose weights are a plain parameter."""
    layer = flow.layer(node)
    kinds = (nn.Conv2d, nn.Linear, RoundedConv2d, RoundedLinear)  # rounded ones are called a second time
    return layer is not None and type(layer) in kinds and not has_hooks(layer) and len(node.args) == 1


def _can(layer: Any) -> bool:
    """Whether a layer has a counterpart on integers, and no sum of it overflows."""
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.padding == "same"):
        return False
    return sums_fit(layer.weight.shape)


def _resulting(flow: Flow) -> fx.Node:
    """The layer that gives the result, but for what treats every value alike."""
    node: Any = next(node for node in flow.graph.nodes if node.op == "output")
    while len(node.all_input_nodes) == 1 and not _is_float(flow, node):
        node = node.all_input_nodes[0]
    return node


def _end(flow: Flow, node: fx.Node) -> tuple[fx.Node, bool]:
    """What is one with a layer at inference, to a batch norm or ReLU that alone reads it; whether that is a ReLU."""
    for modules, functions, is_relu in ((Norms, (), False), ((nn.ReLU,), RELUS, True)):
        user = next(iter(node.users))
        if len(node.users) == 1 and flow.calls(user, modules, functions):
            node = user
            if is_relu:
                return node, True
    return node, False


def choose_ranges(model: nn.Module, images: Tensor) -> None:
    """Sets every grid to that on which what it rounds of normalised images [N, C, H, W] is moved least, squared.

    One behind the other, as the model runs in training; all else is left as it was.
    """

    def choose(module: Any, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().float().flatten()
        some = values[:: math.ceil(len(values) / KEPT)].cpu().numpy()
        module.take(*grid_of(np.concatenate([some, [float(values.min()), float(values.max())]]).astype(np.float32)))

    with unchanged(model), ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, FakeQuantize):
                hooks.callback(module.register_forward_pre_hook(choose).remove)
        model(images)
