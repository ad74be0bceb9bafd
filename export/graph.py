"""BinaryGraph: what a network computes, as a short list of typed nodes with NumPy arrays.

Images and weights are in PyTorch's order: values [N, C, H, W] or [N, C], convolution weights [O, I, KH, KW]. Shapes are
those of a batch of one.
"""

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsg import FsgError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation. `name` is unique and, where there is one, that of the module in the user's model."""

    name: str
    inputs: tuple[str, ...] = ()
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Input(Node):
    """The normalised image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sign(Node):
    """-1 where the input is negative, else +1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Node):
    """What float and binary convolutions share. `padding` is added on both sides of (rows, columns)."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(Convolution):
    """Float convolution of a zero-padded input: weight [O, I/groups, KH, KW], bias [O]."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryLayer(Node):
    """scale * (sums of the input with weights of -1 and +1) + bias.

    negative [O, ...] says which weights are -1; scale and bias are [O].
    """

    negative: NDArray[np.bool_]
    scale: Floats
    bias: Floats

    def signs(self) -> Floats:
        """-1 or +1, shaped as `negative`."""
        return np.where(self.negative, np.float32(-1), np.float32(1))


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryConv(Convolution, BinaryLayer):
    """A convolution, negative [O, I/groups, KH, KW], of the input padded with `padding_value`."""

    padding_value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Node):
    """weight [O, I] @ input + bias [O]."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryDense(BinaryLayer):
    """A matrix product, negative [O, I]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine(Node):
    """scale * input + bias per channel, [C]: batch normalisation at inference."""

    scale: Floats
    bias: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Relu(Node):
    """max(input, 0)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """Sum of two inputs of one shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Node):
    """`padding` rows and columns of `value` on both sides."""

    padding: Pair
    value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Node):
    """Maximum over unpadded windows."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanPool(Node):
    """Mean over all rows and columns: [N, C, H, W] -> [N, C, 1, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Node):
    """The same values in the shape [N, C] or [N, C, 1, 1]; the input has one row and column or none."""


@dataclass(frozen=True)
class BinaryGraph:
    """Nodes in the order they are computed; the first is the Input, the last gives the logits."""

    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def count(self, kind: type[Node]) -> int:
        """How many nodes are of a type."""
        return sum(isinstance(node, kind) for node in self.nodes)

    def users(self, name: str) -> list[Node]:
        """The nodes that read a value."""
        return [node for node in self.nodes if name in node.inputs]

    def takes_bits(self, node: Node) -> bool:
        """Whether a node's input is a sign, so that a binary layer needs no multiplication."""
        return isinstance(self[node.inputs[0]], Sign)


def rewrite(graph: BinaryGraph, rule: Callable[[Node], list[Node]]) -> BinaryGraph:
    """Replaces every node by the nodes that `rule` returns for it; the last of them must keep the node's name.

    An empty list removes the node: its users read its first input.
    """
    removed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        new = rule(replace(node, inputs=tuple(removed.get(name, name) for name in node.inputs)))
        nodes.extend(new)
        if not new:
            removed[node.name] = removed.get(node.inputs[0], node.inputs[0])
    return BinaryGraph(tuple(nodes))


def trace(model: "torch.nn.Module", shape: tuple[int, int, int]) -> BinaryGraph:
    """Reads the graph of a model in evaluation mode for images of `shape` (C, H, W), by torch.fx.

    The model stays as it is. What its output does not depend on is left out. Errors: FsgError that names the layer, or
    the step, that has no counterpart here.
    """
    from torch import fx

    from fsg.training import layers

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: "torch.nn.Module", qualified_name: str) -> bool:
            own = isinstance(module, (layers.BinaryActivation, layers.BinaryLayer))
            return own or super().is_leaf_module(module, qualified_name)

    model = copy.deepcopy(model).cpu().eval()
    try:
        module = fx.GraphModule(model, Tracer().trace(model))
    except Exception as error:  # the model's own code fails in its own ways on inputs that only record
        raise FsgError(f"cannot export the model: its forward cannot be traced ({_first_line(error)})") from error
    module.graph.eliminate_dead_code()
    image, *others = (step for step in module.graph.nodes if step.op == "placeholder")
    if any(other.users for other in others):
        raise FsgError("cannot export the model: it takes more than one input")
    shapes = _shapes(module, shape)

    modules = dict(model.named_modules())
    graph = BinaryGraph((Input(name=image.name, shape=(1, *shape)),))
    values = {image: image.name}
    for step in module.graph.nodes:
        if step.op == "placeholder":
            continue
        if step.op == "output":
            (result,) = step.args
            if values.get(result) not in [node.name for node in graph.nodes[1:]]:
                raise FsgError("cannot export the model: its output must be one tensor that it computes")
            break
        sources = tuple(values[source] for source in (*step.args, *step.kwargs.values()) if isinstance(source, fx.Node))
        node = _convert(step, modules, sources, shapes, graph)
        if node is None:
            values[step] = sources[0]
            continue
        graph = BinaryGraph((*graph.nodes, node))
        if isinstance(node, Relu) and _in_place(step, modules):
            values |= {other: node.name for other, name in values.items() if name == sources[0]}
        values[step] = node.name
    return graph


def _shapes(module: "torch.fx.GraphModule", shape: tuple[int, int, int]) -> dict["torch.fx.Node", tuple[int, ...]]:
    """The shape of every step that gives a tensor, by running the model once."""
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
    return {step: tuple(value.shape) for step, value in run.env.items() if isinstance(value, torch.Tensor)}


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
        return _convert_module(modules[str(step.target)], at, graph[sources[0]].shape)
    if step.op in ("call_function", "call_method"):
        if step.target in (operator.add, torch.add) and len(sources) == 2 and "alpha" not in step.kwargs:
            if len({graph[source].shape for source in sources}) > 1:
                raise FsgError(f"cannot export {_what(step)}: it adds values of different shapes")
            return Add(**at)
        if step.target in (torch.relu, torch.nn.functional.relu, "relu"):
            return Relu(**at)
        if step.target in (torch.flatten, "flatten"):
            return _flatten(at, graph[sources[0]].shape, _what(step))
    raise FsgError(f"cannot export {_what(step)}: use a layer of torch.nn for it, or leave it out")


def _in_place(step: "torch.fx.Node", modules: dict[str, "torch.nn.Module"]) -> bool:
    """Whether a step overwrites its input, so that what reads the input later reads the result."""
    if step.op == "call_module":
        return bool(getattr(modules[str(step.target)], "inplace", False))
    return any(argument is True for argument in (*step.args, *step.kwargs.values()))


def _flatten(at: dict[str, Any], shape: tuple[int, ...], what: str) -> Reshape:
    if at["shape"] != (1, shape[1]):
        raise FsgError(f"cannot export {what}: it flattens {list(shape[1:])}; pool the image to 1x1 before it")
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


def _convert_module(module: "torch.nn.Module", at: dict[str, Any], shape: tuple[int, ...]) -> Node | None:
    """The node for a module whose first input has `shape`."""
    from torch import nn

    from fsg.training import layers

    def refuse(why: str) -> FsgError:
        return FsgError(f"cannot export {at['name']} ({type(module).__name__}): {why}")

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
    if isinstance(module, nn.ReLU):
        return Relu(**at)
    if isinstance(module, nn.MaxPool2d):
        kernel, stride = _pair(module.kernel_size), _pair(module.stride)
        plain = _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1)
        if not plain or module.ceil_mode or module.return_indices:
            raise refuse("only pooling without padding, dilation, ceil_mode and return_indices is supported")
        return MaxPool(**at, kernel=kernel, stride=stride)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        if at["shape"][2:] != (1, 1):
            raise refuse("only the mean over the whole image, output size 1, is supported")
        return MeanPool(**at)
    if isinstance(module, nn.Flatten):
        return _flatten(at, shape, f"{at['name']} (Flatten)")
    if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
        return None
    raise refuse("no exportable counterpart; replace it, or keep it out of the exported part")


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
