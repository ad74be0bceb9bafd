"""The table of operators in docs/export.md, found out by trying: python tests/support/operator_table.py [--write]."""

import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fsg.training.layers
from fsg import FsgError
from fsg.export.formats.onnx import to_onnx
from fsg.export.formats.packed import to_packed
from fsg.export.formats.tflite.direct import to_tflite_direct
from fsg.export.formats.tflite.lower import lower
from fsg.export.graph import BinaryGraph
from fsg.export.reading.rules import REFUSED, Entry
from fsg.export.reading.table import ENTRIES
from fsg.export.recognise import simplify
from fsg.export.trace import trace
from fsg.runtime.model.packed.read import parse_packed
from fsg.training.layers import BinaryActivation

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"
BEGIN, END = "<!-- operators: begin -->", "<!-- operators: end -->"
SHAPE = (4, 12, 10)
HEAD = ("layers of torch.nn", "functions and methods", "becomes", ".fsg", ".onnx", ".tflite directly", ".tflite by LCE")
WRITERS: dict[str, Callable[[BinaryGraph], Any]] = {
    ".fsg": lambda graph: parse_packed("model.fsg", to_packed(graph, {})),
    ".onnx": lambda graph: to_onnx(graph, {}),
    ".tflite directly": to_tflite_direct,
    ".tflite by LCE": lower,
}

Call = Callable[[Any, Tensor], Any]


def many(*calls: Call) -> tuple[Call, ...]:
    return calls


def number(*values: Any, **settings: Any) -> Call:
    """A call with the image and these."""
    return lambda f, x: f(x * 2, *values, **settings)


def weight(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)


def other(f: Any, x: Tensor) -> Any:
    return f(x * 1, x.abs() + 1)


def first(*values: Any, **settings: Any) -> Call:
    return lambda f, x: f(x * 2, *values, **settings)[0]


C = torch.arange(1.0, 5).reshape(4, 1, 1)
FUNCTIONS: dict[str, tuple[Call, ...]] = {
    "flatten": many(number(1), number(2)),
    "view": many(lambda f, x: f(x, x.size(0), -1), lambda f, x: f(x, x.size(0), 8, 6, 10)),
    "reshape": many(lambda f, x: f(x, (x.size(0), -1)), lambda f, x: f(x, (x.size(0), 8, 6, 10))),
    "squeeze": many(lambda f, x: f(x[:, :1], 1)),
    "squeeze_": many(lambda f, x: f(x[:, :1] * 1, 1)),
    "unsqueeze": many(number(-1)),
    "unsqueeze_": many(lambda f, x: f(x * 1, -1)),
    "unflatten": many(number(1, (2, 2))),
    "view_as": many(lambda f, x: f(x.flatten(1), x)),
    "reshape_as": many(lambda f, x: f(x.flatten(1), x)),
    "permute": many(lambda f, x: f(x, (0, 2, 3, 1))),
    "transpose swapaxes swapdims": many(number(2, 3)),
    "movedim moveaxis": many(number(1, -1)),
    "getitem": many(number((slice(None), slice(0, 2)))),
    "split": many(first(2, 1)),
    "chunk tensor_split": many(first(2, 1)),
    "split_with_sizes": many(first([1, 3], 1)),
    "unbind": many(first(1)),
    "narrow": many(number(1, 0, 2)),
    "select": many(number(1, 2)),
    "index_select": many(number(1, torch.tensor([2, 0]))),
    "flip": many(number((2,))),
    "roll": many(number(1, 2)),
    "channel_shuffle": many(number(2)),
    "expand broadcast_to": many(lambda f, x: f(x[:, :1], x.shape), lambda f, x: f(x[:, :1], x.shape) + x),
    "expand_as": many(lambda f, x: f(x[:, :1], x)),
    "repeat tile": many(number((1, 2, 1, 1))),
    "cat concat concatenate": many(lambda f, x: f([x, x * 2], 1), lambda f, x: f([x, x * 2], 2)),
    "stack": many(lambda f, x: f([x, x * 2], 1)),
    "pad": many(number((1, 1, 1, 1)), number((1, 1, 1, 1), mode="reflect")),
    "interpolate upsample": many(number(scale_factor=2), number((9, 7), mode="bilinear")),
    "pixel_shuffle pixel_unshuffle": many(number(2)),
    "prelu": many(number(torch.tensor([0.2]))),
    "log log_ sqrt sqrt_ rsqrt rsqrt_": many(lambda f, x: f(x.abs() + 1)),
    "add add_ iadd sub sub_ isub subtract": many(other, lambda f, x: f(x * 1, C)),
    "radd rsub": many(number(2.0)),
    "mul mul_ imul multiply truediv div div_ itruediv divide true_divide": many(
        lambda f, x: f(x * 1, C), lambda f, x: f(x * 1, x.abs() + 1)
    ),
    "rmul": many(number(2.0)),
    "rtruediv rdiv": many(lambda f, x: f(x.abs() + 1, 2.0)),
    "reciprocal": many(lambda f, x: f(x.abs() + 1)),
    "maximum minimum": many(other),
    "pow pow_ ipow float_power": many(lambda f, x: f(x * 1, 2)),
    "clamp clamp_ clip clip_": many(lambda f, x: f(x * 1, -0.5, 0.5)),
    "clamp_min clamp_min_ clamp_max clamp_max_": many(lambda f, x: f(x * 1, 0.2)),
    "ge greater_equal gt greater le less_equal lt less": many(lambda f, x: f(x, 0.1).float()),
    "where": many(lambda f, x: f(x >= 0, 1.0, -1.0), lambda f, x: f(x >= 0, x, 0.1 * x)),
    "mean": many(number((2, 3)), number(1)),
    "sum amax amin": many(number((2, 3))),
    "max min": many(other, first(1)),
    "softmax log_softmax": many(number(1)),
    "to": many(number(torch.float32)),
    "type": many(number(torch.float32)),
    "type_as": many(lambda f, x: f(x * 2, x)),
    "dropout1d": many(lambda f, x: f(x.flatten(1), 0.5, False)),
    "dropout dropout_ dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout": many(
        number(0.5, False)
    ),
    "conv1d": many(lambda f, x: f(x.flatten(2), weight(5, 4, 3))),
    "conv2d": many(number(weight(5, 4, 3, 3), padding=1), number(weight(4, 1, 3, 3), groups=4)),
    "conv_transpose2d": many(number(weight(4, 5, 3, 3), stride=2)),
    "linear": many(lambda f, x: f(x.flatten(1), weight(5, 480)), number(weight(5, 10))),
    "matmul": many(lambda f, x: f(x.flatten(1), weight(480, 5)), number(weight(10, 5))),
    "bmm": many(lambda f, x: f(x[:, 0], x[:, 1].mT)),
    "mm": many(lambda f, x: f(x.flatten(1), weight(480, 5))),
    "batch_norm": many(number(torch.zeros(4), torch.ones(4))),
    "layer_norm": many(number((4, 12, 10)), number((10,))),
    "group_norm": many(number(2)),
    "max_pool2d avg_pool2d": many(number(2), number(3, 2, 1)),
    "adaptive_avg_pool2d adaptive_max_pool2d": many(number(1), number((5, 3))),
}
"""Calls of functions, by their names: the function and the image. Those that are not here take the image alone."""

IMAGES = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


def binary(kind: str) -> tuple[nn.Module, ...]:
    make = getattr(fsg.training.layers, kind)
    if kind == "BinaryLinear":
        return nn.Sequential(nn.Flatten(), BinaryActivation(), make(480, 5)), nn.Sequential(
            BinaryActivation(), make(10, 5)
        )
    settings: tuple[dict[str, Any], ...] = ({}, {"padding": 1}, {"padding": 1, "stride": 2}, {"groups": 2})
    return tuple(nn.Sequential(BinaryActivation(), make(4, 6, 3, **more)) for more in settings)


LAYERS: dict[str, Callable[[Any], tuple[nn.Module, ...]]] = {
    "Flatten": lambda make: (make(), make(2)),
    "Unflatten": lambda make: (make(1, (2, 2)),),
    "ChannelShuffle PixelShuffle PixelUnshuffle": lambda make: (make(2),),
    "ZeroPad2d ReflectionPad2d ReplicationPad2d CircularPad2d": lambda make: (make(1),),
    "ConstantPad2d": lambda make: (make(1, 0.5),),
    "Upsample UpsamplingNearest2d UpsamplingBilinear2d": lambda make: (make(scale_factor=2),),
    "Softmax LogSoftmax": lambda make: (make(1),),
    "Conv1d": lambda make: (nn.Sequential(nn.Flatten(2), make(4, 5, 3)),),
    "Conv2d": lambda make: (make(4, 5, 3, padding=1), make(4, 8, 3, 2, 1, groups=4)),
    "ConvTranspose2d": lambda make: (make(4, 5, 3, 2),),
    "Linear": lambda make: (nn.Sequential(nn.Flatten(), make(480, 5)), make(10, 5)),
    "BatchNorm2d SyncBatchNorm InstanceNorm2d": lambda make: (make(4),),
    "LayerNorm": lambda make: (make((4, 12, 10)), make(10)),
    "GroupNorm": lambda make: (make(2, 4),),
    "BatchNorm1d": lambda make: (nn.Sequential(nn.Flatten(), make(480)), nn.Sequential(nn.Flatten(2), make(4))),
    "Dropout1d": lambda make: (nn.Sequential(nn.Flatten(), make()),),
    "MaxPool2d AvgPool2d": lambda make: (make(2), make(3, 2, 1)),
    "AdaptiveAvgPool2d AdaptiveMaxPool2d": lambda make: (make(1), make((5, 3))),
    "BinaryConv2d BinaryLinear": lambda make: binary(make.__name__),
}
"""How layers are made, by their names. Those that are not here take nothing."""


class Calls(nn.Module):
    """A network that is one call of a function, or of a layer."""

    def __init__(self, function: Any, call: Call) -> None:
        super().__init__()
        self.layer = function if isinstance(function, nn.Module) else None
        self.call = lambda layer, x: call(function if layer is None else layer, x)

    def forward(self, x: Tensor) -> Any:
        return self.call(self.layer, x)


def named(table: dict[str, Any], name: str, default: Any) -> Any:
    """The entry of a table whose keys are several names each."""
    return next((value for names, value in table.items() if name in names.split()), default)


def layer(name: str) -> Any:
    """A layer of torch.nn or fsg.training.layers, or None."""
    return getattr(nn, name, None) or getattr(fsg.training.layers, name, None)


def function(name: str) -> Any:
    """A function of torch, torch.nn.functional or operator, or a method of tensors; or None."""
    if name in ("mT", "T"):
        return lambda x: getattr(x, name)
    found = (getattr(room, name, None) for room in (F, torch, Tensor, operator))
    return next(filter(callable, found), None) or getattr(Tensor, f"__{name}__", None)


def networks(entry: Entry) -> Iterator[tuple[str, nn.Module]]:
    """Small networks that use an entry, under each of its names."""
    for name in layers_of(entry):
        for made in named(LAYERS, name, lambda make: (make(),))(layer(name)):
            yield name, Calls(made.eval(), number())
    for name in entry.functions:
        for call in named(FUNCTIONS, name, (number(),)):
            yield name, Calls(function(name), call)


def layers_of(entry: Entry) -> list[str]:
    """An entry's layers; a few rows of values one by one are functions alone."""
    return [name for name in entry.layers if layer(name)]


def is_written(graph: BinaryGraph, write: Callable[[BinaryGraph], Any]) -> bool:
    try:
        write(graph)
    except FsgError:
        return False
    return True


def verdicts(entry: Entry) -> dict[str, str]:
    """For each format, whether it takes what the entry's calls become: "yes", "some" or "no"."""
    graphs = [tried(network) for _, network in networks(entry)]
    found = {}
    for name, write in WRITERS.items():
        taken = {is_written(graph, write) for graph in graphs}
        found[name] = "some" if len(taken) > 1 else "yes" if taken == {True} else "no"
    return found


def code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def tried(network: nn.Module) -> BinaryGraph:
    return simplify(trace(network, SHAPE))


def table() -> str:
    """What docs/export.md has between its markers."""
    torch.manual_seed(0)
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for entry in sorted(ENTRIES, key=lambda entry: not layers_of(entry)):
        becomes = entry.becomes.replace("|", "\\|")
        cells = [code(layers_of(entry)), code(entry.functions), becomes, *verdicts(entry).values()]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Refused with this advice:", "", "| layers, functions and methods | instead |", "|---|---|"]
    lines += [f"| {code(names.split())} | {advice} |" for names, advice in REFUSED.items()]
    return "\n".join(lines)


def parts(text: str) -> tuple[str, str, str]:
    """The document before its table, the table, and what is behind."""
    before, _, rest = text.partition(BEGIN)
    inside, _, behind = rest.partition(END)
    return before + BEGIN + "\n", inside.strip("\n"), "\n" + END + behind


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        before, _, behind = parts(DOCUMENT.read_text(encoding="utf-8"))
        DOCUMENT.write_text(before + table() + behind, encoding="utf-8")
    else:
        print(table())
