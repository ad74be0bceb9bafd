"""Compares ReferenceFSG with recorded steps of the published FSG code: python -m fsg.training.conformance FILE.npz

The file holds float64 arrays unless it says otherwise; t counts generation steps, LAYER is any name, and every size is
read from the shapes. Layers of four-dimensional weights are convolutions, of two-dimensional ones linear.

    cfg/lr, alpha, length, fast_lr, slow_lr     scalars; cfg/nonlinear is the text None, none, relu or tanh
    cfg/meta                                    optional text; words layer0=LAYER layer1=LAYER give the layers' order
    hyper/fast/linear{1,2,3}.weight             the fast net; hyper/slow/* the slow net, named as in `SlowNet`
    in/LAYER/W0, bias0                          latent weights and, for linear layers with one, the bias
    in/LAYER/raw_grad [T, shape]                the stored gradient that step t generates from; in/LAYER/bias_grad0
    in/LAYER/R [T, shape], Rb [T, out]          the loss of step t is the sum of binary weights * R and biases * Rb
    fixed/t0/..., train/t0/..., ...             what the steps computed, without and with learning hypernetworks: loss,
                                                grad/{fast,slow}/*, and in LAYER/ the arrays of `Replay._step`
    train/final/{fast,slow}/*                   the hypernetworks after the last step
    quantiser_f32/*, act_{conv,fc}_f32/*        optional, float32: the weight and activation binarisers

Prints the worst relative error (L2 of the difference over L2 of the file's array) of every quantity over steps and
layers. Exit code 1 if one exceeds its limit, 2 with one line for a missing or broken file.
"""

import math
import re
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.methods.fsg_published import ReferenceFSG
from fsg.training.methods.hypernet import NONLINEARITIES
from fsg.training.networks.layers import BinaryConv2d, BinaryLayer, BinaryLinear
from fsg.training.networks.quantizers import dorefa, dorefa_level, sign

LIMIT = 1e-9  # float64
LIMIT_F32 = 1e-6  # eight times float32's epsilon: tanh and the divisions may differ in their last bits

ROUNDED_TO_ZERO = 2.0**-23  # share of the largest activation below which float32 may lose the sign


@dataclass(frozen=True)
class Row:
    """The worst disagreement of one quantity; `error` is relative L2, infinite where that is undefined, or for
    binary values how many differ."""

    quantity: str
    error: float
    limit: float
    where: str

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


class Vectors:
    """The arrays of a file by key, as tensors. Errors: FsgError for a missing or broken file and a missing key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as archive:
                self.arrays: dict[str, np.ndarray] = dict(archive)
        except FileNotFoundError as error:
            raise FsgError(f"{path}: no such file; give an .npz file of recorded steps") from error
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise FsgError(f"cannot read {path}: it is no .npz file of arrays, or is damaged; copy it anew") from error

    def array(self, key: str) -> np.ndarray:
        if key not in self.arrays:
            raise FsgError(f"{self.path} lacks {key}: it is no complete file of recorded steps")
        return self.arrays[key]

    def tensor(self, key: str, shape: tuple[int, ...] | None = None) -> Tensor:
        array = self.array(key)
        if array.dtype.kind not in "fiu" or (shape is not None and array.shape != shape):
            expected = f" where {list(shape)} is due" if shape is not None else ", which is no number"
            raise FsgError(f"{self.path}: {key} is {array.dtype} {list(array.shape)}{expected}")
        return torch.from_numpy(array.copy())

    def number(self, key: str) -> float:
        return float(self.tensor(key, ()))

    def size(self, key: str, axis: int, dimensions: int) -> int:
        """How long an array of so many dimensions is along one axis; at least 1."""
        shape = self.array(key).shape
        if len(shape) != dimensions or 0 in shape:
            raise FsgError(f"{self.path}: {key} is of shape {list(shape)} where {dimensions} dimensions are due")
        return shape[axis]

    def layers(self) -> list[str]:
        """The names of the binary layers in their order."""
        names = [match[1] for key in self.arrays if (match := re.fullmatch(r"in/(.+)/W0", key))]
        if not names:
            raise FsgError(f"{self.path} has no in/LAYER/W0: it is no file of recorded steps")
        meta = str(self.arrays.get("cfg/meta", ""))
        given = {match[2]: int(match[1]) for match in re.finditer(r"\blayer(\d+)=(\S+)", meta)}
        return sorted(names, key=lambda name: given[name]) if given.keys() == set(names) else names


def _layer(vectors: Vectors, name: str) -> BinaryLayer:
    """A binary layer with the file's weights, in float64."""
    weight = vectors.tensor(f"in/{name}/W0")
    bias = f"in/{name}/bias0" in vectors.arrays
    layer: BinaryLayer
    if weight.dim() == 4 and not bias:
        layer = BinaryConv2d(weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]))
    elif weight.dim() == 2:
        layer = BinaryLinear(weight.shape[1], weight.shape[0], bias)
    else:
        raise FsgError(
            f"{vectors.path}: in/{name}/W0 has {weight.dim()} dimensions{' and a bias' if bias else ''};"
            " binary layers are convolutions without a bias (4) and linear (2)"
        )
    layer.double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        if isinstance(layer, BinaryLinear) and bias:
            layer.bias.copy_(vectors.tensor(f"in/{name}/bias0", tuple(layer.bias.shape)))
    return layer


def _rule(vectors: Vectors, layers: nn.ModuleList, *, learning: bool) -> ReferenceFSG:
    """The rule with the file's settings and hypernetworks; these stay as they are unless `learning`."""
    nonlinearity = str(vectors.array("cfg/nonlinear")).lower()
    if nonlinearity not in NONLINEARITIES:
        raise FsgError(f"{vectors.path}: cfg/nonlinear is {nonlinearity!r}: choose one of {', '.join(NONLINEARITIES)}")
    length = vectors.number("cfg/length")
    if length < 1 or not length.is_integer():
        raise FsgError(f"{vectors.path}: cfg/length is {length:g}: it must be a whole number of at least 1")
    rule = ReferenceFSG(
        layers,
        lr=vectors.number("cfg/lr"),
        alpha=vectors.number("cfg/alpha"),
        history=int(length),
        fast_lr=vectors.number("cfg/fast_lr") if learning else 0.0,
        slow_lr=vectors.number("cfg/slow_lr") if learning else 0.0,
        hidden=vectors.size("hyper/fast/linear1.weight", 0, 2),
        nonlinearity=nonlinearity,
        expand=vectors.size("hyper/slow/mamba.A_log", 0, 2),
        d_state=vectors.size("hyper/slow/mamba.A_log", 1, 2),
        d_conv=vectors.size("hyper/slow/mamba.conv1d.weight", 2, 3),
    )
    with torch.no_grad():
        for name, parameter in _hypernetworks(rule).items():
            parameter.copy_(vectors.tensor(f"hyper/{name}", tuple(parameter.shape)))
    return rule


def _hypernetworks(rule: ReferenceFSG) -> dict[str, Tensor]:
    """The parameters of both hypernetworks by the file's names."""
    assert rule.slow is not None
    matrices = [layer.weight for layer in rule.fast if isinstance(layer, nn.Linear)]
    fast = {f"fast/linear{i}.weight": weight for i, weight in enumerate(matrices, 1)}
    return {**fast, **{f"slow/{name}": parameter for name, parameter in rule.slow.named_parameters()}}


class Replay:
    """The rule on layers with the file's weights, for one trace: "fixed" or "train"."""

    def __init__(self, vectors: Vectors, trace: str) -> None:
        self.trace = trace
        self.names = vectors.layers()
        self.layers = [_layer(vectors, name) for name in self.names]
        self.biased = [name for name in self.names if f"in/{name}/bias0" in vectors.arrays]
        self.rule = _rule(vectors, nn.ModuleList(self.layers), learning=trace == "train")
        self.meta_gradients: dict[str, Tensor] = {}
        self.rule.meta_optimizer.register_step_pre_hook(self._keep_meta_gradients)
        self.steps = vectors.size(f"in/{self.names[0]}/raw_grad", 0, 1 + self.layers[0].weight.dim())
        weights = {name: (self.steps, *layer.weight.shape) for name, layer in zip(self.names, self.layers, strict=True)}
        biases = {name: (self.steps, *bias.shape) for name, bias in zip(self.biased, self.rule.biases, strict=True)}
        self.stored = [vectors.tensor(f"in/{name}/raw_grad", shape) for name, shape in weights.items()]
        self.stored_biases = [vectors.tensor(f"in/{name}/bias_grad0", shape[1:]) for name, shape in biases.items()]
        self.targets = [vectors.tensor(f"in/{name}/R", shape) for name, shape in weights.items()]
        self.bias_targets = [vectors.tensor(f"in/{name}/Rb", shape) for name, shape in biases.items()]

    def run(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the file's keys with what the rule has, step by step."""
        self._loss([one[0] for one in self.stored], self.stored_biases).backward()
        self.rule.step()  # the rule's first step only stores gradients: those that the file's step 0 starts from
        for t in range(self.steps):
            for quantity, value in self._step(t):
                yield f"{self.trace}/t{t}/{quantity}", value
        if self.trace == "train":
            for name, parameter in _hypernetworks(self.rule).items():
                yield f"train/final/{name}", parameter.detach()

    def _loss(self, targets: list[Tensor], bias_targets: list[Tensor]) -> Tensor:
        """Sum of binary weights * targets and of biases * bias targets, at the look-ahead."""
        with self.rule.lookahead():
            values = [*(layer.binary_weight() for layer in self.layers), *self.rule.biases]
            terms = zip(values, [*targets, *bias_targets], strict=True)
            self.meta_biases = _values(self.rule.biases)
            return torch.stack([(value * target).sum() for value, target in terms]).sum()

    def _keep_meta_gradients(self, *_: Any) -> None:
        """Called before the hypernetworks move; the rule clears their gradients afterwards."""
        self.meta_gradients = {name: p.grad for name, p in _hypernetworks(self.rule).items() if p.grad is not None}

    def _step(self, t: int) -> Iterator[tuple[str, Tensor]]:
        rule = self.rule
        rule.history.newest().copy_(torch.cat([one[t].flatten() for one in self.stored]))
        of_weights = {"pre_quantized_in": rule.split(rule.levels), "W_in": self._weights()}
        of_biases = {"bias_in": _values(rule.biases)}
        loss = self._loss([one[t] for one in self.targets], [one[t] for one in self.bias_targets])
        generated, leaf = rule.generated, rule.leaf
        assert generated is not None and leaf is not None
        for weight in generated.weight:
            weight.retain_grad()
        loss.backward()
        of_biases |= {"meta_bias": self.meta_biases, "dL_dbias": _gradients(rule.biases)}
        rule.step()
        of_weights |= {
            "fast_grad": generated.fast,
            "slow_grad": generated.slow,
            "calibration": generated.slope,
            "meta_weight": generated.weight,
            "pre_quantized": rule.split(rule.levels),
            "quantized": rule.split(leaf),
            "dL_dW": _gradients(generated.weight),
            "refined": [rule.adam_direction(layer.weight) for layer in self.layers],
            "W_out": self._weights(),
        }
        of_biases |= {"refined_bias": rule.bias_directions, "bias_out": _values(rule.biases)}
        yield "loss", loss
        yield from ((f"grad/{name}", gradient) for name, gradient in self.meta_gradients.items())
        for names, quantities in ((self.names, of_weights), (self.biased, of_biases)):
            for quantity, tensors in quantities.items():
                yield from ((f"{name}/{quantity}", one) for name, one in zip(names, tensors, strict=True))

    def _weights(self) -> list[Tensor]:
        return _values(layer.weight for layer in self.layers)


def _values(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Copies that stay as they are when the parameters move."""
    return [parameter.detach().clone() for parameter in parameters]


def _gradients(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(one) if one.grad is None else one.grad for one in tensors]


def compare_trace(vectors: Vectors, trace: str) -> list[Row]:
    """One row per quantity: the worst of all steps and layers."""
    worst: dict[str, Row] = {}
    for key, value in Replay(vectors, trace).run():
        where, quantity = _place(key)
        row = _row(f"{trace} {quantity}", value.detach(), vectors.tensor(key, tuple(value.shape)), where)
        if quantity not in worst or row.error > worst[quantity].error:
            worst[quantity] = row
    return list(worst.values())


def _place(key: str) -> tuple[str, str]:
    """The step (and layer) and the quantity that a key of a trace names."""
    _, step, rest = key.split("/", 2)
    if step == "final":
        return "", f"final/{rest}"
    if rest == "loss" or rest.startswith("grad/"):
        return step, rest
    layer, _, quantity = rest.rpartition("/")
    return f"{step} {layer}", quantity


def _row(quantity: str, value: Tensor, expected: Tensor, where: str = "") -> Row:
    """Relative L2 of the difference, or for binary values how many differ."""
    if quantity.endswith((" quantized", " binarised")):
        return Row(quantity, int((value != expected).sum()), 0, where)
    limit = LIMIT_F32 if value.dtype == torch.float32 else LIMIT
    difference, size = (value - expected).norm().item(), expected.norm().item()
    if difference == 0:
        return Row(quantity, 0.0, limit, where)
    error = difference / size if size else math.inf
    return Row(quantity, error if math.isfinite(error) else math.inf, limit, where)


def compare_weight_quantiser(vectors: Vectors) -> list[Row]:
    """`dorefa` against the group quantiser_f32."""
    group = "quantiser_f32"
    weight = vectors.tensor(f"{group}/w").float().requires_grad_()
    shape = tuple(weight.shape)
    binary = dorefa(weight)
    binary.backward(vectors.tensor(f"{group}/upstream", shape).float())
    found = {
        "pre_quantized": dorefa_level(weight.detach()),
        "quantized": binary.detach(),
        "dL_dw": _gradients([weight])[0],
    }
    return [_row(f"{group} {name}", value, vectors.tensor(f"{group}/{name}", shape)) for name, value in found.items()]


def compare_activation(vectors: Vectors, group: str) -> list[Row]:
    """`sign` against a group of activations, away from zero: published is 0 or -1 there, one bit here always gives +1.

    The published gradient for linear layers is our "clipped"; that for convolutions, of x / max|x|, is not offered.
    """
    x = vectors.tensor(f"{group}/x").float().requires_grad_()
    shape = tuple(x.shape)
    binary = sign(x, "clipped")
    binary.backward(vectors.tensor(f"{group}/upstream", shape).float())
    size = x.detach().abs()
    nonzero = size > ROUNDED_TO_ZERO * size.max()
    binarised = vectors.tensor(f"{group}/binarised", shape)
    zeros = f"{int((~nonzero).sum())} zeros left out, +1 here"
    rows = [_row(f"{group} binarised", binary.detach()[nonzero], binarised[nonzero], zeros)]
    if "fc" in group:
        rows.append(_row(f"{group} dL_dx", _gradients([x])[0], vectors.tensor(f"{group}/dL_dx", shape)))
    return rows


def compare(path: Path) -> list[Row]:
    """All comparisons that the file allows. Errors: FsgError for a missing or broken file."""
    vectors = Vectors(path)
    groups = {key.partition("/")[0] for key in vectors.arrays}
    traces = [trace for trace in ("fixed", "train") if trace in groups]
    if not traces:
        raise FsgError(f"{path} has neither fixed/ nor train/ arrays: it is no file of recorded steps")
    rows = [row for trace in traces for row in compare_trace(vectors, trace)]
    if "quantiser_f32" in groups:
        rows += compare_weight_quantiser(vectors)
    for group in ("act_conv_f32", "act_fc_f32"):
        if group in groups:
            rows += compare_activation(vectors, group)
    return rows


def table(rows: list[Row]) -> str:
    """The rows as text, in columns."""
    width = max(len(row.quantity) for row in rows)
    lines = [f"{'quantity':{width}}  worst error    limit  where"]
    for row in rows:
        error = f"{row.error:11.2e}" if row.limit else f"{row.error:4.0f} differ"
        limit = f"{row.limit:7.0e}" if row.limit else "      0"
        lines.append(
            f"{row.quantity:{width}}  {error}  {limit}  {row.where}{'' if row.passed else '  FAILED'}".rstrip()
        )
    return "\n".join(lines)


def main() -> int:
    """Prints the table of the file named on the command line; returns the exit code."""
    if len(sys.argv) != 2:
        print("usage: python -m fsg.training.conformance FILE.npz", file=sys.stderr)
        return 2
    try:
        rows = compare(Path(sys.argv[1]))
    except FsgError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = sum(not row.passed for row in rows)
    print(table(rows))
    if any(row.quantity.startswith("act_conv_f32") for row in rows):
        print("not compared: act_conv_f32 dL_dx, a gradient of x / max|x| that fsg does not offer")
    print(f"{failed} of {len(rows)} quantities disagree" if failed else f"all {len(rows)} quantities agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
