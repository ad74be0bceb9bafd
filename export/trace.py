"""Reads a BinaryGraph from a PyTorch model: runs it once, records what it calls, and looks that up in `reading`."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fsg import FsgError
from fsg.export.graph import BinaryGraph, Quantize
from fsg.export.reading.builder import BATCH, Builder, Value
from fsg.export.reading.custom import meaning_of
from fsg.export.reading.rules import ADVICE, Entry, advice
from fsg.export.reading.table import BY_LAYER, BY_NAME
from fsg.training.networks.layers import BinaryActivation, BinaryLayer, FakeQuantize, RoundedLayer
from fsg.training.networks.trace import copied, has_hooks

ASKS = ("__bool__", "__float__", "__int__", "__index__", "__array__", "item", "tolist", "numpy", "equal", "allclose")
"""Functions that give Python, or the shape of a tensor, values of the image."""
TELLS = (
    *("size", "dim", "numel", "nelement", "ndimension", "len", "is_contiguous", "stride", "storage_offset", "hash"),
    *("is_floating_point", "is_complex", "get_device", "repr", "format", "str", "data_ptr", "element_size"),
    *("requires_grad", "requires_grad_", "is_same_size", "zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
)
"""Functions that tell of a tensor without its values."""
AS = ("expand_as", "view_as", "reshape_as", "type_as")
"""Functions that take of their second tensor what it is like."""
SAME, TURNED = ("data", "real"), ("T", "mT")
"""Attributes of tensors that are the tensor itself, or another one."""
SPELLED = {"log_sigmoid": "logsigmoid", "_threshold": "threshold"}
"""What functions call themselves, and their names in torch.nn.functional where those are others."""


def _on_grid(b: Builder, x: Value, *, step: float, zero: int) -> Value:
    return b.add(Quantize, x, shape=x.shape, step=step, zero=zero)


INT8_AWARE = {
    "FakeQuantize": Entry(_on_grid, (), ("step", "zero"), (), (), "numbers of a grid"),
    "RoundedConv2d": BY_LAYER["Conv2d"],
    "RoundedLinear": BY_LAYER["Linear"],
}
"""Layers of networks that `fsg.training.networks.int8` makes."""


def trace(model: nn.Module, shape: tuple[int, int, int]) -> BinaryGraph:
    """Reads the graph of a model in evaluation mode for images of `shape` (C, H, W).

    The model stays as it is. What its output does not depend on is left out. Errors: FsgError that names the layer, or
    the function and the module that calls it, that has no counterpart here.
    """
    images = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    recorder, result = _recorded(model, images)
    found = recorder.value(result) if isinstance(result, torch.Tensor) else None
    if found is None or found == recorder.builder.image:
        raise FsgError("cannot export the model: its output must be one tensor that it computes")
    return recorder.builder.finish(found)


def values_of(model: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """What PyTorch computes at every node of `trace`'s graph, by name, for images [N, C, H, W]; N must be even."""
    parts: list[dict[str, np.ndarray]] = []
    for pair in torch.from_numpy(images).split(BATCH):
        recorder, _ = _recorded(model, pair.clone())
        known = ((value, tensor) for tensor, value in recorder.known.values() if value is not None)
        parts.append({value.node: tensor.numpy() for value, tensor in known})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _recorded(model: nn.Module, images: torch.Tensor) -> tuple["Recorder", Any]:
    """Runs a copy of a model on `BATCH` images; what was recorded, and the result."""
    _check_inputs(model)
    model, shape = copied(model).cpu().float().eval(), tuple(images.shape[1:])
    recorder = Recorder(model, (shape[0], shape[1], shape[2]))
    recorder.know(images, recorder.builder.image)
    with torch.no_grad(), _in_float32(), recorder.layers(), recorder:
        try:
            result = model(images)
        except FsgError:
            raise
        except Exception as error:  # whatever the model's layers raise
            what = f"cannot run {recorder.failed or 'the model'} on {BATCH} images of shape {list(shape)}"
            raise FsgError(f"{what}: {_first_line(error)}; it must fit the model") from error
    return recorder, result


@contextmanager
def _in_float32() -> Iterator[None]:
    """New tensors are of single precision within it, whatever a training works with."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_inputs(model: nn.Module) -> None:
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) > 1:
        raise FsgError(f"cannot export the model: it takes more than one input ({', '.join(needed)})")


class Recorder(TorchFunctionMode):
    """Sees every call of a function of torch while it is active, and every call of a layer that has a rule.

    `place` is the module that is running, as its user calls it. Tensors that depend on the image are known by identity
    and kept; all others are constants.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.builder = Builder("image", shape)
        self.names = {id(module): name for name, module in reversed(list(model.named_modules()))}
        self.running: list[nn.Module] = []
        self.failed = ""  # where an error came from
        self.inside = False  # a layer that is recorded as a whole
        self.known: dict[int, tuple[torch.Tensor, Value | None]] = {}  # None: changed in place through another view

    @property
    def place(self) -> str:
        names = [self.names.get(id(module), "") for module in self.running]
        return next((name for name in reversed(names) if name), "")

    # --- tensors ------------------------------------------------------------------------------------------
    def know(self, tensor: torch.Tensor, value: Value) -> None:
        """From here on a tensor is a value; what shared its memory and was the same is it too."""
        old = self.known.get(id(tensor))
        self.known[id(tensor)] = (tensor, value)
        if old is None:
            return
        with torch._C.DisableTorchFunction():
            memory = tensor.untyped_storage().data_ptr()  # it was changed in place
            for key, (other, held) in self.known.items():
                if key != id(tensor) and other.untyped_storage().data_ptr() == memory:
                    self.known[key] = (other, value if held == old[1] else None)

    def value(self, tensor: torch.Tensor) -> Value | None:
        """The value that a tensor is, None for a constant."""
        if id(tensor) not in self.known:
            return None
        value = self.known[id(tensor)][1]
        if value is None:
            raise self.builder.refuse("it reads what was changed in place through another view; make a new tensor")
        return value

    def given(self, argument: Any) -> Any:
        """An argument of a call with tensors replaced by values and arrays."""
        if isinstance(argument, torch.Tensor):
            value = self.value(argument)
            return argument.detach().cpu().numpy() if value is None else value
        if isinstance(argument, slice):
            return slice(*map(self.given, (argument.start, argument.stop, argument.step)))
        if type(argument) in (tuple, list):
            return type(argument)(map(self.given, argument))
        return tuple(argument) if isinstance(argument, torch.Size) else argument

    def concerns(self, argument: Any) -> bool:
        """Whether an argument depends on the image."""
        if isinstance(argument, (tuple, list)):
            return any(map(self.concerns, argument))
        return isinstance(argument, torch.Tensor) and id(argument) in self.known

    def learn(self, result: Any, found: Any) -> None:
        """Connects what a call returned with what its rule found."""
        if isinstance(result, torch.Tensor) and isinstance(found, Value):
            shape = _for_one(result)
            if found.shape != shape:
                raise self.builder.refuse(f"it would give {list(found.shape)} instead of {list(shape)} for one image")
            self.know(result, found)
        elif isinstance(result, (tuple, list)) and isinstance(found, (tuple, list)):
            for one, other in zip(result, found, strict=True):
                self.learn(one, other)

    # --- functions ----------------------------------------------------------------------------------------
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside or not self.concerns([*args, *kwargs.values()]):
            return function(*args, **kwargs)
        name = _name(function)
        if name in AS and not self.concerns(args[0]):
            return function(*args, **kwargs)
        if name in TELLS or (function.__name__ == "__get__" and name not in (*SAME, *TURNED)):
            return function(*args, **kwargs)
        self.builder.begin(name.strip("_") or name, f"{name} in the forward of {self.place or 'the model'}")
        if function.__name__ in ASKS:
            raise self.builder.refuse("the forward asks for values of the image, which a file cannot do")
        given = self.given(list(args)), {key: self.given(value) for key, value in kwargs.items()}
        result = function(*args, **kwargs)
        if result is NotImplemented:
            return result
        self.builder.result = _for_one(result)
        if name in SAME:
            self.learn(result, given[0][0])
            return result
        entry = BY_NAME.get(name)
        if entry is None:
            raise self.builder.refuse(advice(name))
        self.learn(result, _called(self.builder, entry, *given))
        return result

    # --- layers -------------------------------------------------------------------------------------------
    @contextmanager
    def layers(self) -> Iterator[None]:
        """Within it, modules are recorded as a whole if they have a rule, and so are people's own functions."""
        call, apply = nn.Module.__call__, torch.autograd.Function.__dict__["apply"]

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.running.append(module)
            try:
                if self.inside or not self.concerns([*args, *kwargs.values()]):
                    return call(module, *args, **kwargs)
                entry, kind = _entry_of(module), type(module).__name__
                if entry is None and kind in ADVICE and type(module) is getattr(nn, kind, None):
                    self.builder.begin(kind, f"{self.place or 'the model'} ({kind})")
                    raise self.builder.refuse(ADVICE[kind])
                if entry is None:
                    return call(module, *args, **kwargs)
                return self._layer(module, entry, call, args, kwargs)
            except FsgError:
                raise
            except Exception:
                self.failed = self.failed or self.place
                raise
            finally:
                self.running.pop()

        def applied(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if self.inside or not self.concerns([*args, *kwargs.values()]):
                return apply.__func__(cls, *args, **kwargs)
            self.builder.begin(cls.__name__, f"{cls.__name__} in the forward of {self.place or 'the model'}")
            given = self.given(list(args))
            result = self._whole(lambda: apply.__func__(cls, *args, **kwargs))

            def again(*args: Any, **kwargs: Any) -> Any:
                return self._whole(lambda: apply.__func__(cls, *args, **kwargs))

            self.learn(result, meaning_of(self.builder, again, given, kwargs))
            return result

        nn.Module.__call__ = called  # type: ignore[method-assign]
        torch.autograd.Function.apply = classmethod(applied)  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]
            torch.autograd.Function.apply = apply  # type: ignore[method-assign]

    def _layer(self, module: nn.Module, entry: Entry, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        name = self.names.get(id(module), "") or type(module).__name__
        self.builder.begin(name, f"{name} ({type(module).__name__})")
        given = self.given(list(args)), {key: self.given(value) for key, value in kwargs.items()}
        result = self._whole(lambda: call(module, *args, **kwargs))
        self.builder.result = _for_one(result)
        settings = {key: _plain(getattr(module, key)) for key in entry.attributes if hasattr(module, key)}
        if isinstance(module, BinaryLayer):
            settings |= {"weight": _plain(module.binary_weight()), "binary": True}
            settings |= {"padding_value": module.padding_value} if hasattr(module, "padding_value") else {}
        if isinstance(module, RoundedLayer):
            settings["weight"] = _plain(module.rounded_weight())
        if entry.kinds:
            settings["kind"] = type(module).__name__
        self.learn(result, entry.rule(self.builder, *given[0], **(settings | given[1])))
        return result

    def _whole(self, call: Callable[[], Any]) -> Any:
        """Runs something without recording what it calls."""
        self.inside = True
        try:
            return call()
        finally:
            self.inside = False


def _entry_of(module: nn.Module) -> Entry | None:
    """The rule of a layer of torch's or ours that does just what such a layer does."""
    name = type(module).__name__
    entry = INT8_AWARE.get(name) or BY_LAYER.get(name)
    own = isinstance(module, (BinaryActivation, BinaryLayer, FakeQuantize, RoundedLayer))
    if entry is None or has_hooks(module) or not (own or type(module) is getattr(nn, name, None)):
        return None
    return entry


def _name(function: Any) -> str:
    """What a function of torch, a method or an attribute of tensors is called."""
    name = function.__self__.__name__ if function.__name__ == "__get__" else function.__name__
    name = str(name[2:-2] if name.startswith("__") and name.endswith("__") else name)
    return SPELLED.get(name, name)


def _called(builder: Builder, entry: Entry, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Calls a rule with arguments by the names that the function of torch has for them."""
    names = entry.arguments
    named = dict(kwargs)
    if "self" in named:
        named[names[0]] = named.pop("self")
    if "axis" in named and "dim" in names:
        named["dim"] = named.pop("axis")
    positional = list(args)
    if len(positional) <= len(names):
        named |= dict(zip(names, positional, strict=False))
        positional = []
    first = [named.pop(names[0])] if names and names[0] in named else []
    try:
        bound = inspect.signature(entry.rule).bind(builder, *first, *positional, **named)
    except TypeError as error:
        raise builder.refuse(f"with {', '.join(kwargs) or 'these arguments'} it is not exported") from error
    return entry.rule(*bound.args, **bound.kwargs)


def _for_one(value: Any) -> Any:
    """The shapes of what a step gave for the images of the trial, for one image."""
    if isinstance(value, torch.Tensor):
        shape = tuple(value.shape)
        return (1, *shape[1:]) if shape[:1] == (BATCH,) else shape
    return [_for_one(part) for part in value] if isinstance(value, (tuple, list)) else ()


def _plain(value: Any) -> Any:
    """A tensor as an array; the rest as it is."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
