"""Makes a user's own full-precision model binary, by rule.

`binarize` reads the forward pass by torch.fx, so it sees where values come from and go to, and returns an ordinary
module (a torch.fx.GraphModule) with the same parameter names. With one-bit activations (W1A1) it follows what the
field agrees on:

- The first layer, the last layer and 1x1 shortcut convolutions stay float (XNOR-Net, Rastegari et al. 2016, arXiv
  1603.05279; Bi-Real Net, Liu et al. 2018, arXiv 1808.00278), and so do grouped and depthwise convolutions, whose few
  sums leave nothing to popcount.
- Batch norm, sign, binary convolution, in this order (XNOR-Net, section 3.2). A ReLU whose result would only be
  signed goes, as sign(relu(x)) is +1 everywhere; so does a Sigmoid, a clamp at 0, and all else that rises without ever
  being negative. A binary layer that no batch norm follows gets one, since sums of hundreds of -1 and +1 lie far
  outside of where the sign has a gradient.
- A shortcut around every binary convolution that keeps its input's shape (Bi-Real Net). Where a residual block has one
  shortcut around several such convolutions, as in ResNet-18 and -34, it moves to the first of them and the others get
  their own, so that no value is counted twice: torchvision's resnet18 becomes Bi-Real Net 18.
- Borders are padded with +1, which one bit can hold; 0 it cannot.
"""

import operator
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import fx, nn
from torch.fx.passes.tools_common import legalize_graph

from fsg import FsgError
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLayer, BinaryLinear, binary_layers
from fsg.training.networks.trace import Dropouts, Flow, Layers, Norms, copied, has_hooks, traced
from fsg.training.registry import FIRST_LAST, check_name

ADDED_NORM = "_added_norm"
"""Ends the names of the batch norms that `binarize` adds; no file of full-precision weights has them."""

FIRST, LAST = "first layer", "last layer"


def binarize(
    model: nn.Module,
    *,
    activation_bits: int = 1,
    first_last: str = "float",
    keep_float: Sequence[str] = (),
    quantizer: str = "dorefa",
    activation_gradient: str = "polynomial",
    shortcut: bool = True,
) -> nn.Module:
    """A binary twin of a model with Conv2d and Linear layers; the model itself stays as it is.

    Weights, biases and their names are kept, so that the model's state dict still loads (with strict=False where batch
    norms had to be added). `activation_bits`: 1, or 32, which makes only the weights binary and changes nothing else
    but the missing batch norms. `first_last`: "float", or "binary" for the first and last layers too. `keep_float`:
    name patterns such as "features.3" or "layer1.*" of layers to leave as they are. `shortcut`: Bi-Real shortcuts (see
    above). Each layer that stays float says why in its attribute `role`; see `float_layers`.

    The forward pass must be one that torch.fx can trace, with one input, and the same in training and evaluation but
    for dropout; linear layers must read [N, C]. Errors: FsgError that names what is in the way.
    """
    check_name(str(activation_bits), ("1", "32"), "number of activation bits")
    check_name(first_last, FIRST_LAST, "first-last setting")
    flow = Flow(traced(copied(model)))
    one_bit = activation_bits == 1
    calls = _choose(flow, first_last, keep_float, one_bit)
    for call in calls:
        layer = flow.layer(call)
        if not isinstance(layer, BinaryLayer):  # a layer that is called twice is replaced once
            flow.module.add_submodule(str(call.target), _binary(layer, one_bit, quantizer))
    for call in calls:
        _ensure_norm(flow, call)
    if one_bit:
        signs = _insert_signs(flow, calls, activation_gradient)
        _remove_one_sided(flow, [sign.all_input_nodes[0] for sign in signs.values()])
        if shortcut:
            _insert_shortcuts(flow, signs)
    result = legalize_graph(flow.module)
    result.delete_all_unused_submodules()
    result.graph.lint()
    result.recompile()
    return result.train(model.training)


def float_layers(model: nn.Module) -> dict[str, str]:
    """The layers that `binarize` left float, by name, and why."""
    return {
        name: module.role
        for name, module in model.named_modules()
        if isinstance(getattr(module, "role", None), str) and not isinstance(module, BinaryLayer)
    }


def head_names(model: nn.Module) -> list[str]:
    """The last layers of a model that `binarize` made: those whose size follows the number of classes."""
    return [name for name, module in model.named_modules() if getattr(module, "role", None) == LAST]


def _choose(flow: Flow, first_last: str, keep_float: Sequence[str], one_bit: bool) -> list[fx.Node]:
    """The calls of layers that become binary; the other layers get their `role`."""
    layers = [node for node in flow.graph.nodes if flow.calls(node, Layers)]
    first, last = _ends(flow, layers)
    for pattern in keep_float:
        if not any(fnmatchcase(str(node.target), pattern) for node in layers):
            names = ", ".join(dict.fromkeys(str(node.target) for node in layers))
            raise FsgError(f"keep_float: no layer is called {pattern!r}; layers are {names}")
    by_name: dict[str, list[fx.Node]] = {}  # a layer may be called more than once
    for node in layers:
        by_name.setdefault(str(node.target), []).append(node)
    chosen = []
    for name, nodes in by_name.items():
        layer = flow.layer(nodes[0])
        if layer is None or isinstance(layer, BinaryLayer):
            continue
        end = FIRST if first & set(nodes) else LAST if last & set(nodes) else None
        kept = next((f"kept by {pattern!r}" for pattern in keep_float if fnmatchcase(name, pattern)), None)
        by_shortcut = "1x1 shortcut" if one_bit and any(_is_shortcut(flow, node) for node in nodes) else None
        layer.role = kept or _obstacle(layer) or end or by_shortcut  # type: ignore[assignment]
        if layer.role is None or (layer.role is end and first_last == "binary"):
            chosen += nodes
    if not chosen and not binary_layers(flow.module):
        reasons = ", ".join(f"{name}: {why}" for name, why in float_layers(flow.module).items())
        raise FsgError(f"cannot binarise the model: no layer may become binary ({reasons or 'it has none'})")
    return chosen


def _ends(flow: Flow, layers: list[fx.Node]) -> tuple[set[fx.Node], set[fx.Node]]:
    """The layers that depend on no other layer, and those on which no other layer depends."""
    known = set(layers)
    fed: set[fx.Node] = set()
    for node in flow.graph.nodes:
        if any(source in known or source in fed for source in node.all_input_nodes):
            fed.add(node)
    feeding: set[fx.Node] = set()
    for node in reversed(flow.graph.nodes):
        if any(user in known or user in feeding for user in node.users):
            feeding.add(node)
    return known - fed, known - feeding


def _obstacle(layer: nn.Module) -> str | None:
    """Why no binary layer can replace this one."""
    if hasattr(layer, "parametrizations") or "weight" not in layer._parameters:
        return "its weight is computed, as weight_norm and spectral_norm do"
    if has_hooks(layer):
        return "its hooks"
    if type(layer) not in (nn.Conv2d, nn.Linear):
        return f"no binary {type(layer).__name__}"
    if isinstance(layer, nn.Conv2d):
        if layer.groups > 1:
            return "grouped convolution"
        if layer.padding_mode != "zeros" or _padding(layer) is None:
            return "its padding"
    return None


def _padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """Padding in rows and columns on both sides; None where one side has more."""
    if not isinstance(layer.padding, str):
        return layer.padding[0], layer.padding[1]
    if layer.padding == "valid":
        return 0, 0
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(size % 2 for size in reach) else (reach[0] // 2, reach[1] // 2)


def _is_shortcut(flow: Flow, node: fx.Node) -> bool:
    """Whether a 1x1 convolution reads what something else reads too, and goes straight into a sum."""
    layer = flow.layer(node)
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1):
        return False
    source = node.all_input_nodes[0]
    while flow.passes(source) and len(source.users) == 1:
        source = source.all_input_nodes[0]
    end = node
    while len(end.users) == 1 and flow.calls(next(iter(end.users)), Norms):
        end = next(iter(end.users))
    return len(source.users) > 1 and any(map(flow.is_sum, end.users))


def _binary(layer: nn.Module | None, one_bit: bool, quantizer: str) -> nn.Module:
    """A binary layer with the parameters of a float one."""
    new: nn.Module
    if isinstance(layer, nn.Conv2d):
        padding = _padding(layer)
        assert padding is not None
        new = BinaryConv2d(
            layer.in_channels,
            layer.out_channels,
            (layer.kernel_size[0], layer.kernel_size[1]),
            (layer.stride[0], layer.stride[1]),
            padding,
            (layer.dilation[0], layer.dilation[1]),
            bias=layer.bias is not None,
            quantizer=quantizer,
            padding_value=1.0 if one_bit else 0.0,
        )
    else:
        assert isinstance(layer, nn.Linear)
        new = BinaryLinear(layer.in_features, layer.out_features, layer.bias is not None, quantizer=quantizer)
    new.weight, new.bias = layer.weight, layer.bias
    new.role = layer.role
    return new


def _ensure_norm(flow: Flow, call: fx.Node) -> None:
    """Puts a batch norm behind a binary layer, unless there is one before anything else reads the sums."""
    node = call
    while len(node.users) == 1:
        node = next(iter(node.users))
        if flow.calls(node, Norms):
            return
        if not (flow.passes(node) or flow.is_relu(node)):
            break
    layer = flow.layer(call)
    assert isinstance(layer, BinaryLayer)
    norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    users = list(call.users)
    added = flow.insert(f"{call.target}{ADDED_NORM}", norm(len(layer.weight)).to(layer.weight), call)
    for user in users:
        user.replace_input_with(call, added)


def _insert_signs(flow: Flow, calls: list[fx.Node], gradient: str) -> dict[fx.Node, fx.Node]:
    """Puts a sign in front of every binary layer, one for all that read the same value; returns each layer's sign.

    It stands before dropout, which may drop bits (as in XNOR-Net's AlexNet); behind it dropped values would become +1.
    """
    behind: dict[fx.Node, fx.Node] = {}
    signs = {}
    for call in calls:
        reader, source = call, call.all_input_nodes[0]
        while flow.calls(source, Dropouts) and len(source.users) == 1:
            reader, source = source, source.all_input_nodes[0]
        if not flow.calls(source, (BinaryActivation,)):
            if source not in behind:
                behind[source] = flow.insert(f"{call.target}_sign", BinaryActivation(gradient), source)
            reader.replace_input_with(source, behind[source])
            signs[call] = behind[source]
    return signs


def _remove_one_sided(flow: Flow, signed: list[fx.Node]) -> None:
    """Removes every ReLU, Sigmoid or other function that never gives a negative value, where its result, as it is or
    pooled, summed or joined with others like it, is only signed.
    """

    def one_sided(node: fx.Node) -> set[fx.Node]:
        """The functions because of which a value is never negative; empty if it may be."""
        if flow.is_never_negative(node):
            return {node} | one_sided(node.all_input_nodes[0])
        if flow.passes(node):
            return one_sided(node.all_input_nodes[0])
        if flow.is_sum(node):
            sources = [one_sided(source) for source in node.all_input_nodes]
            return set.union(*sources) if all(sources) else set()
        if flow.calls(node, (), (torch.cat,)):
            return set().union(*map(one_sided, node.all_input_nodes))
        return set()

    for relu in set().union(*map(one_sided, signed)):
        relu.replace_all_uses_with(relu.all_input_nodes[0])
        flow.graph.erase_node(relu)


def _insert_shortcuts(flow: Flow, signs: dict[fx.Node, fx.Node]) -> None:
    """Gives every binary convolution that keeps its input's shape a shortcut of its own."""
    ends = {call: _normalised(flow, call) for call in signs if isinstance(flow.layer(call), nn.Conv2d)}
    owner = {end: call for call, end in ends.items() if end is not None}

    def source(call: fx.Node) -> fx.Node:
        return signs[call].all_input_nodes[0]

    done: set[fx.Node] = set()
    for total in [node for node in flow.graph.nodes if flow.is_sum(node)]:
        for end, skip in (total.all_input_nodes, total.all_input_nodes[::-1]):
            if end not in owner or skip in owner:
                continue
            chain = [owner[end]]
            while _keeps_shape(flow, chain[0]) and source(chain[0]) in owner and len(source(chain[0]).users) == 1:
                chain.insert(0, owner[source(chain[0])])
            if len(end.users) == 1 and _depends(skip, source(chain[0])):
                done.update(chain)
                _share(flow, [owner_end for call in chain if (owner_end := ends[call])], skip, total)
    for call, end in ends.items():
        if end is None or call in done or any(map(flow.is_sum, end.users)) or not _keeps_shape(flow, call):
            continue
        users = list(end.users)
        with flow.graph.inserting_after(end):
            total = flow.graph.call_function(operator.add, (end, source(call)))
        for user in users:
            user.replace_input_with(end, total)


def _share(flow: Flow, ends: list[fx.Node], skip: fx.Node, total: fx.Node) -> None:
    """One shortcut `skip` around several layers becomes one around each: it joins behind the first already."""
    for end in ends[:-1]:
        (reader,) = end.users
        with flow.graph.inserting_after(end):
            added = flow.graph.call_function(operator.add, (end, skip))
        reader.replace_input_with(end, added)
        total.replace_input_with(skip, added)
        skip = added


def _normalised(flow: Flow, call: fx.Node) -> fx.Node | None:
    """The batch norm behind a layer, of the layer's own shape; None where a pool stands in between."""
    node = call
    while len(node.users) == 1:
        node = next(iter(node.users))
        if flow.calls(node, Norms):
            return node
        if not flow.is_relu(node):
            break
    return None


def _keeps_shape(flow: Flow, call: fx.Node) -> bool:
    layer = flow.layer(call)
    assert isinstance(layer, nn.Conv2d)
    padding = _padding(layer)
    reach = tuple(d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    same = padding is not None and (2 * padding[0], 2 * padding[1]) == reach
    return same and layer.stride == (1, 1) and layer.in_channels == layer.out_channels


def _depends(node: fx.Node, on: fx.Node) -> bool:
    """Whether a value is computed from another, or is it."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is on:
            return True
        if node not in seen:
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return False
