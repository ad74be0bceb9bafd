"""Reads a BinaryGraph from a PyTorch model, by torch.fx."""

import copy
import itertools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fsg import FsgError
from fsg.export.elementwise import OPERATORS, of_function, settings_of
from fsg.export.graph import (
    Affine,
    Arithmetic,
    AveragePool,
    BinaryConv,
    BinaryDense,
    BinaryGraph,
    Concat,
    Conv,
    Dense,
    Elementwise,
    Floats,
    Input,
    MaxPool,
    Node,
    Pair,
    Reduce,
    Reshape,
    Sign,
)

if TYPE_CHECKING:
    import torch


def trace(model: "torch.nn.Module", shape: tuple[int, int, int]) -> BinaryGraph:
    """Reads the graph of a model in evaluation mode for images of `shape` (C, H, W), by torch.fx.

    The model stays as it is. What its output does not depend on is left out. Errors: FsgError that names the layer, or
    the step, that has no counterpart here.
    """
    from torch import fx

    from fsg.training.networks.trace import LayerTracer

    model = copy.deepcopy(model).cpu().eval()
    try:
        module = fx.GraphModule(model, LayerTracer().trace(model))
    except Exception as error:  # the model's own code fails in its own ways on inputs that only record
        raise FsgError(f"cannot export the model: its forward cannot be traced ({_first_line(error)})") from error
    module.graph.eliminate_dead_code()
    image, *others = (step for step in module.graph.nodes if step.op == "placeholder")
    if any(other.users for other in others):
        raise FsgError("cannot export the model: it takes more than one input")
    shapes, sizes = _shapes(module, shape)

    modules = dict(model.named_modules())
    graph = BinaryGraph((Input(name=image.name, shape=(1, *shape)),))
    values = {image: image.name}
    for step in module.graph.nodes:
        if step.op == "placeholder" or step in sizes:
            continue
        if step.op == "output":
            (result,) = step.args
            if values.get(result) not in [node.name for node in graph.nodes[1:]]:
                raise FsgError("cannot export the model: its output must be one tensor that it computes")
            break
        sources = tuple(values[source] for source in _arguments(step) if source not in sizes)
        node = _convert(step, modules, sources, shapes, graph)
        if node is None:
            values[step] = sources[0]
            continue
        graph = BinaryGraph((*graph.nodes, node))
        if isinstance(node, Elementwise) and _in_place(step, modules):
            values |= {other: node.name for other, name in values.items() if name == sources[0]}
        values[step] = node.name
    return graph


def _arguments(step: "torch.fx.Node") -> list["torch.fx.Node"]:
    """The steps whose results a step takes, in order, as often as it takes them."""
    from torch import fx

    found: list[fx.Node] = []
    fx.node.map_arg((step.args, step.kwargs), found.append)
    return found


def _shapes(
    module: "torch.fx.GraphModule", shape: tuple[int, int, int]
) -> tuple[dict["torch.fx.Node", tuple[int, ...]], set["torch.fx.Node"]]:
    """The shape of every step that gives a tensor, and the steps that give sizes, by running the model once."""
    import torch

    run = torch.fx.Interpreter(module, garbage_collect_values=False)
    run.extra_traceback = False
    try:
        with torch.no_grad():
            run.run(torch.zeros(1, *shape))
    except Exception as error:  # whatever the model's layers raise
        step = next(step for step in module.graph.nodes if step not in run.env)
        raise FsgError(
            f"cannot run {_what(step)} on an image of shape {list(shape)}: {_first_line(error)}; it must fit the model"
        ) from error
    shapes = {step: tuple(value.shape) for step, value in run.env.items() if isinstance(value, torch.Tensor)}
    return shapes, {step for step, value in run.env.items() if isinstance(value, (int, torch.Size))}


def _convert(
    step: "torch.fx.Node",
    modules: dict[str, "torch.nn.Module"],
    sources: tuple[str, ...],
    shapes: dict["torch.fx.Node", tuple[int, ...]],
    graph: BinaryGraph,
) -> Node | None:
    """The node for one step of the traced forward pass; None where the step changes nothing."""
    import torch

    at: dict[str, Any] = {"name": step.name, "inputs": sources, "shape": shapes.get(step, ())}
    if step.op == "call_module":
        if all(node.name != step.target for node in graph.nodes):  # else a module that is called twice
            at["name"] = step.target
        module = modules[str(step.target)]
        return _convert_module(module, at, graph[sources[0]].shape, f"{at['name']} ({type(module).__name__})")
    if step.op in ("call_function", "call_method"):
        if step.target in (operator.add, torch.add) and len(sources) == 2 and "alpha" not in step.kwargs:
            if len({graph[source].shape for source in sources}) > 1:
                raise FsgError(f"cannot export {_what(step)}: it adds values of different shapes")
            return Arithmetic(**at, operator="add")
        if step.target is torch.cat:
            if at["shape"][1] != sum(graph[source].shape[1] for source in sources):
                raise FsgError(f"cannot export {_what(step)}: it joins something else than channels")
            return Concat(**at)
        shape = graph[sources[0]].shape if sources else ()
        if step.target in (torch.flatten, "flatten", "view", "reshape"):
            return _flatten(at, shape, _what(step))
        if step.target in (torch.mean, "mean") and len(shape) == 4:
            return _mean(step, at, shape)
        if operator_ := of_function(step.target):
            given = dict(zip(operator_.settings, step.args[1:], strict=False)) | step.kwargs
            layer = getattr(torch.nn, operator_.layer)(**{k: v for k, v in given.items() if k in operator_.settings})
            return _convert_module(layer, at, shape, _what(step))
        if layer := _as_layer(step):
            return _convert_module(layer, at, shape, _what(step))
    raise FsgError(f"cannot export {_what(step)}: use a layer of torch.nn for it, or leave it out")


def _in_place(step: "torch.fx.Node", modules: dict[str, "torch.nn.Module"]) -> bool:
    """Whether a step overwrites its input, so that what reads the input later reads the result."""
    if step.op == "call_module":
        return bool(getattr(modules[str(step.target)], "inplace", False))
    name = str(getattr(step.target, "__name__", step.target))
    return name.endswith("_") or any(argument is True for argument in (*step.args, *step.kwargs.values()))


def _as_layer(step: "torch.fx.Node") -> "torch.nn.Module | None":
    """The layer that computes what a function of torch.nn.functional does, if there is one."""
    import torch
    from torch.nn import functional as F

    window = ("kernel_size", "stride", "padding")
    layers: dict[Any, tuple[type[torch.nn.Module], tuple[str, ...]]] = {
        F.max_pool2d: (torch.nn.MaxPool2d, (*window, "dilation", "ceil_mode", "return_indices")),
        F.avg_pool2d: (torch.nn.AvgPool2d, (*window, "ceil_mode", "count_include_pad", "divisor_override")),
        F.adaptive_avg_pool2d: (torch.nn.AdaptiveAvgPool2d, ("output_size",)),
        F.dropout: (torch.nn.Dropout, ("p", "training", "inplace")),
    }
    if step.target not in layers or step.kwargs.get("training") is True:  # dropout in evaluation too
        return None
    kind, names = layers[step.target]
    given = dict(zip(names, step.args[1:], strict=False)) | step.kwargs
    given.pop("training", None)
    return kind(**given)


def _mean(step: "torch.fx.Node", at: dict[str, Any], shape: tuple[int, ...]) -> Node:
    """A mean over all rows and columns, which without keepdim also flattens."""
    if at["shape"] not in ((1, shape[1]), (1, shape[1], 1, 1)):
        raise FsgError(f"cannot export {_what(step)}: only the mean over all rows and columns is supported")
    return Reduce(**at, operator="mean", axes=(2, 3))


def _flatten(at: dict[str, Any], shape: tuple[int, ...], what: str) -> Reshape:
    if at["shape"] != (1, math.prod(shape[1:])):
        raise FsgError(f"cannot export {what}: it makes {list(at['shape'])} of {list(shape)}; only [N, C] is supported")
    return Reshape(**at)


def _what(step: "torch.fx.Node") -> str:
    """A step as its user knows it: the name of the layer, or of the function and of the module that calls it."""
    if step.op == "call_module":
        return str(step.target)
    callers = [path for path, _ in step.meta.get("nn_module_stack", {}).values() if path]
    return (
        f"{getattr(step.target, '__name__', step.target)} in the forward of {callers[-1] if callers else 'the model'}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _convert_module(module: "torch.nn.Module", at: dict[str, Any], shape: tuple[int, ...], what: str) -> Node | None:
    """The node for a module whose first input has `shape`; `what` names it in errors."""
    from torch import nn

    from fsg.training.networks import layers

    def refuse(why: str) -> FsgError:
        return FsgError(f"cannot export {what}: {why}")

    def array(tensor: "torch.Tensor | None", length: int) -> Floats:
        return np.zeros(length, np.float32) if tensor is None else tensor.detach().float().cpu().numpy().copy()

    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise refuse("only padding by a number of zeros, or of binary convolutions by +1, is supported")
        at |= {
            "stride": module.stride,
            "padding": module.padding,
            "dilation": module.dilation,
            "groups": module.groups,
        }
        if isinstance(module, layers.BinaryConv2d):
            bits = _binary(module, at["name"]) | {"bias": array(module.bias, module.out_channels)}
            return BinaryConv(**at, **bits, padding_value=module.padding_value)
        return Conv(**at, weight=array(module.weight, 0), bias=array(module.bias, module.out_channels))
    if isinstance(module, nn.Linear):
        if len(shape) != 2:
            raise refuse(f"its input has {len(shape)} axes; flatten it to [N, C] first")
        bias = array(module.bias, module.out_features)
        if isinstance(module, layers.BinaryLinear):
            return BinaryDense(**at, **_binary(module, at["name"]), bias=bias)
        return Dense(**at, weight=array(module.weight, 0), bias=bias)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        if module.running_mean is None or module.running_var is None:
            raise refuse("it keeps no running statistics")
        channels = module.num_features
        mean, variance = (
            array(value, channels).astype(np.float64) for value in (module.running_mean, module.running_var)
        )
        gamma = array(module.weight, channels) if module.affine else np.ones(channels, np.float32)
        scale = gamma / np.sqrt(variance + module.eps)
        shift = array(module.bias, channels) - mean * scale
        return Affine(**at, scale=scale.astype(np.float32), bias=shift.astype(np.float32))
    if isinstance(module, layers.BinaryActivation):
        return Sign(**at)
    row = OPERATORS.get(type(module).__name__) if type(module).__module__.startswith("torch.nn.") else None
    if row:
        return Elementwise(**at, operator=row.layer, settings=settings_of(row, module))
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride, padding = (_pair(v) for v in (module.kernel_size, module.stride, module.padding))
        if isinstance(module, nn.MaxPool2d) and (_pair(module.dilation) != (1, 1) or module.return_indices):
            raise refuse("only pooling without dilation and return_indices is supported")
        if isinstance(module, nn.AvgPool2d) and (
            module.divisor_override or (any(padding) and not module.count_include_pad)
        ):
            raise refuse("only pooling without divisor_override and with count_include_pad is supported")
        outputs = tuple((shape[2 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2))
        if outputs != at["shape"][2:]:
            raise refuse(f"on an image of {list(shape[2:])} ceil_mode makes a difference, which is not supported")
        kind = MaxPool if isinstance(module, nn.MaxPool2d) else AveragePool
        rows, columns = padding
        return kind(**at, kernel=kernel, stride=stride, padding=(rows, rows, columns, columns))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return _adaptive_pool(at, shape, refuse)
    if isinstance(module, nn.Flatten):
        return _flatten(at, shape, what)
    if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
        return None
    raise refuse("no exportable counterpart; replace it, or keep it out of the exported part")


def _adaptive_pool(at: dict[str, Any], shape: tuple[int, ...], refuse: Callable[[str], FsgError]) -> Node | None:
    """The mean over the image, or over windows where PyTorch's adaptive ones are all alike."""
    if at["shape"][2:] == (1, 1):
        return Reduce(**at, operator="mean", axes=(2, 3))
    if at["shape"] == shape:
        return None
    windows = []
    for size, outputs in zip(shape[2:], at["shape"][2:], strict=True):
        starts = [i * size // outputs for i in range(outputs)]
        ends = [-(-(i + 1) * size // outputs) for i in range(outputs)]
        kernels = {end - start for start, end in zip(starts, ends, strict=True)}
        strides = {after - before for before, after in itertools.pairwise(starts)} or {1}
        if len(kernels) > 1 or len(strides) > 1:
            raise refuse(f"{size} pixels do not divide into {outputs} windows alike; use another output size")
        windows.append((kernels.pop(), strides.pop()))
    (rows, row_stride), (columns, column_stride) = windows
    return AveragePool(**at, kernel=(rows, columns), stride=(row_stride, column_stride), padding=(0, 0, 0, 0))


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _binary(layer: Any, name: str) -> dict[str, Any]:
    """Signs and scale of a binary layer's weights, from what its forward pass uses."""
    weight = layer.binary_weight().detach().float().cpu().numpy()
    magnitude = np.abs(weight).reshape(len(weight), -1)
    scale = magnitude[:, 0].copy()
    if not (np.all(magnitude == scale[:, None]) and np.all(scale > 0) and np.all(np.isfinite(scale))):
        raise FsgError(f"cannot export {name}: its quantised weights are not +c or -c in every output channel")
    return {"negative": weight < 0, "scale": scale}
