"""A model's forward pass as a graph of steps (torch.fx), and questions about it."""

import copy
import io
import operator
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
import torch.nn.functional as F
from torch import fx, nn

from fsg import FsgError
from fsg.training.networks.layers import BinaryActivation, BinaryLayer, FakeQuantize, RoundedLayer, Shift

Layers = (nn.modules.conv._ConvNd, nn.Linear)
Norms = (nn.BatchNorm1d, nn.BatchNorm2d)
Dropouts = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
FUNCTIONAL_DROPOUTS = {F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d}
RELUS = (torch.relu, F.relu, F.relu6, "relu")
SUMS = (operator.add, torch.add, "add")
# What keeps the sign of non-negative values, and lets a layer's sums through on their way to a batch norm.
Passing = (*Dropouts, nn.Identity, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASSING = (
    *(F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.flatten),
    *("flatten", "view", "reshape", "mean"),
)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model. Errors: FsgError that names what cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever people keep in their modules
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and not weight.is_leaf:
                raise FsgError(
                    f"cannot copy the model: the weight of {name} is computed, as weight_norm and pruning do; make it"
                    " plain first (torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
                ) from error
        line = (str(error).strip() or type(error).__name__).splitlines()[0].split(".  ")[0]
        raise FsgError(f"cannot copy the model ({line}): keep what cannot be copied out of its modules") from error


def has_hooks(module: nn.Module) -> bool:
    """Whether something happens around a module's forward that is not in it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def quiet_failures() -> Iterator[None]:
    """A block that may fail in a forward: torch.fx would print the code around the failing step."""
    with redirect_stderr(io.StringIO()):
        yield


class LayerTracer(fx.Tracer):
    """Records a forward pass with the layers of torch.nn, and our own, as single steps."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, (BinaryActivation, BinaryLayer, FakeQuantize, RoundedLayer, Shift)) or _asks_for_training(m)
        return own or super().is_leaf_module(m, module_qualified_name)


def _asks_for_training(module: nn.Module) -> bool:
    """Whether a module without weights or parts does something else in training, as those do that drop paths."""
    code = getattr(type(module).forward, "__code__", None)
    alone = next(module.parameters(), None) is None and next(module.children(), None) is None
    return alone and code is not None and "training" in code.co_names


def traced(model: nn.Module, purpose: str = "binarise the model") -> fx.GraphModule:
    """The model as a graph in which nothing works in place and dropout is always a module; errors name the purpose."""
    try:
        graph, evaluation = (LayerTracer().trace(model.train(training)) for training in (True, False))
    except Exception as error:  # the model's own code fails in its own ways on inputs that only record
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FsgError(f"cannot {purpose}: its forward cannot be traced ({line})") from error
    module = fx.GraphModule(model, graph, type(model).__name__)
    for step, other in zip(graph.nodes, evaluation.nodes, strict=False):
        if step.target in FUNCTIONAL_DROPOUTS and other.target is step.target:
            if step.kwargs["training"] != other.kwargs["training"]:
                _as_module(module, step, FUNCTIONAL_DROPOUTS[step.target](step.kwargs["p"]))
        elif step.format_node() != other.format_node():
            raise FsgError(
                f"cannot {purpose}: in training its forward differs from evaluation at {step.name};"
                " build it without auxiliary outputs, and use torch.nn's layers"
            )
    _, *others = (step for step in graph.nodes if step.op == "placeholder")
    for other in others:
        if other.users:
            raise FsgError(f"cannot {purpose}: it takes more than one input")
        graph.erase_node(other)
    graph.eliminate_dead_code()
    _undo_in_place(module)
    return module


def _as_module(module: fx.GraphModule, step: fx.Node, layer: nn.Module) -> None:
    """Turns a call of a function on one value into a call of a layer."""
    name = unused_name(module, f"{step.name}_layer")
    module.add_submodule(name, layer)
    step.op, step.target, step.args, step.kwargs = "call_module", name, (step.all_input_nodes[0],), {}


def _undo_in_place(module: fx.GraphModule) -> None:
    """Makes steps that overwrite their input give a new value; what read the overwritten one reads that."""
    for step in module.graph.nodes:
        layer = module.get_submodule(step.target) if step.op == "call_module" else None
        method = step.op == "call_method" and step.target.endswith("_") and not step.target.endswith("__")
        if not (method or step.kwargs.get("inplace") or getattr(layer, "inplace", False)):
            continue
        if method:
            step.target = step.target[:-1]
        elif layer is None:
            step.update_kwarg("inplace", False)
        source, later = step.all_input_nodes[0], set(_after(step))
        for user in [user for user in source.users if user in later]:
            user.replace_input_with(source, step)
    for layer in module.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]


def _after(step: fx.Node) -> list[fx.Node]:
    nodes = list(step.graph.nodes)
    return nodes[nodes.index(step) + 1 :]


def unused_name(module: fx.GraphModule, name: str) -> str:
    """The name, or with a number where the model has such a module."""
    taken = {known for known, _ in module.named_modules()}
    return next(known for known in (name, *(f"{name}{i}" for i in range(2, len(taken) + 3))) if known not in taken)


class Flow:
    """Questions about the steps of a traced model."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.graph = module.graph

    def layer(self, node: fx.Node) -> nn.Module | None:
        """The module that a step calls, if it calls one."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def calls(self, node: fx.Node, modules: tuple[type, ...], functions: tuple[object, ...] = ()) -> bool:
        """Whether a step is a call of such a module, or of such a function or method."""
        if node.op == "call_module":
            return isinstance(self.layer(node), modules)
        return node.op in ("call_function", "call_method") and node.target in functions

    def is_relu(self, node: fx.Node) -> bool:
        return self.calls(node, (nn.ReLU, nn.ReLU6), RELUS)

    def is_never_negative(self, node: fx.Node) -> bool:
        """Whether a step is a ReLU or another rising function of single values that never gives a negative one."""
        return self.is_relu(node) or self._rises_above_zero(node)

    def _rises_above_zero(self, node: fx.Node) -> bool:
        """Found by trying the step on a range of values, and on a part of it: few functions say what they are."""
        layer = self.layer(node)
        if layer is None:
            if node.op not in ("call_function", "call_method") or len(node.args) == 0 or len(node.all_input_nodes) != 1:
                return False
        elif type(layer).__module__ != nn.modules.activation.__name__ or any(layer.parameters()):
            return False
        values = torch.cat([torch.tensor([-1e6]), torch.linspace(-8, 8, 65), torch.tensor([80.0])])

        def result(x: torch.Tensor) -> torch.Tensor:
            if layer is not None:
                return layer(x)
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: x)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]

        try:
            with torch.no_grad():
                whole, part = result(values.clone()), result(values[:20].clone())
            alone = whole.shape == values.shape and torch.allclose(whole[:20], part)
            return alone and bool((whole >= 0).all() and (whole.diff() >= 0).all() and whole[0] < whole[-1])
        except Exception:  # whatever it raises, it is no such function
            return False

    def is_sum(self, node: fx.Node) -> bool:
        return self.calls(node, (), SUMS) and len(node.all_input_nodes) == 2

    def passes(self, node: fx.Node) -> bool:
        return self.calls(node, Passing, PASSING)

    def insert(self, name: str, layer: nn.Module, source: fx.Node) -> fx.Node:
        """A call of a new module on `source`, right behind it."""
        name = unused_name(self.module, name)
        self.module.add_submodule(name, layer)
        with self.graph.inserting_after(source):
            return self.graph.call_module(name, (source,))
