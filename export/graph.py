"""BinaryGraph: what a network computes, as a short list of typed nodes with NumPy arrays.

Images and weights are in PyTorch's order: values [N, C, H, W], or of any other rank with the batch in front,
convolution weights [O, I, KH, KW]. Shapes are those of a batch of one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pair = tuple[int, int]
Sides = tuple[int, int, int, int]  # above, below, left, right


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
class Pixels(Input):
    """The raw image, from 0 to 255."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sign(Node):
    """-1 where the input is negative, else +1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Negative(Node):
    """6 where the input is negative, else 0: what is left of a sign where nothing runs on bits.

    Computed as min(max(-gain * input, 0), 6), one cheap operation of any runtime; `gain` is large enough for inputs
    that are not as good as 0.
    """

    gain: float


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
class TransposedConv(Convolution):
    """Transposed convolution: weight [I, O/groups, KH, KW], bias [O]. `padding` is cut off on both sides of the result,
    `output_padding` less at its end."""

    weight: Floats
    bias: Floats
    output_padding: Pair


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Node):
    """weight [O, I] @ input + bias [O], along the input's last axis."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryDense(BinaryLayer):
    """A matrix product along the input's last axis, negative [O, I]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantize(Node):
    """(q - zero) * step, where q is round(input * (1 / step)) + zero, clipped to -128 and 127, halves to even."""

    step: float
    zero: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Layer(Node):
    """A float layer on integers: the input is numbers (q - source_zero) * source_step, and so is, with `step` and
    `zero`, the result.

    q = round(float32(sums of (q - source_zero) * weight + bias) * scale) + zero, clipped to -128 and 127, where scale
    is source_step * weight_step / step, all in float32, halves to even: what XNNPACK and ONNX Runtime compute.
    weight [O, ...], weight_step [O]; bias [O] counts source_step * weight_step.
    """

    weight: NDArray[np.int8]
    weight_step: Floats
    bias: NDArray[np.int32]
    source_step: float
    source_zero: int
    step: float
    zero: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Conv(Convolution, Int8Layer):
    """A convolution, weight [O, I/groups, KH, KW], of the input padded with 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Dense(Int8Layer):
    """A matrix product along the input's last axis, weight [O, I]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine(Node):
    """scale * input + bias per channel, [C]: batch normalisation at inference."""

    scale: Floats
    bias: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Elementwise(Node):
    """What the row `operator` of `elementwise.OPERATORS` does to every value, with these settings."""

    operator: str
    settings: dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class PReLU(Node):
    """The input where it is not negative, else slope * input: slope [C] per channel."""

    slope: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Constant(Node):
    """A value that no image changes; it has no inputs."""

    value: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Arithmetic(Node):
    """What `elementwise.ARITHMETIC` names, such as "add", of two inputs that are broadcast to one shape."""

    operator: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MatMul(Node):
    """The matrix products of two inputs' last two axes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Node):
    """All inputs, one behind the other along `axis`."""

    axis: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Take(Node):
    """The values at the places `index` along `axis`: slices, splits and shuffles."""

    axis: int
    index: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Node):
    """Rows above and below, columns left and right of `value`; and so many channels in front and behind."""

    padding: Sides
    value: float
    channels: Pair = (0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool(Node):
    """What pooling over windows shares. `padding` is (rows above, below, columns left, right)."""

    kernel: Pair
    stride: Pair
    padding: Sides


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Pool):
    """Maximum over windows; padding never is the maximum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Pool):
    """Mean over windows of a zero-padded input; zeros count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduce(Node):
    """ "mean", "sum" or "max" over `axes`, which stay with length 1 where the shape has as many axes as the input."""

    operator: str
    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Node):
    """Softmax along `axis`, or with `log` its logarithm."""

    axis: int
    log: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Resize(Node):
    """Rows and columns interpolated to those of `shape`: "nearest" takes the pixel at floor(place * size / new size),
    "bilinear" mixes the four around (place + 0.5) * size / new size - 0.5, or with `align_corners` around
    place * (size - 1) / (new size - 1)."""

    mode: str
    align_corners: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Transpose(Node):
    """The axes in another order: axis i is the input's axis permutation[i]."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Node):
    """The same values, in the order of [N, C, H, W], in another shape."""


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


def sides(node: Convolution | Pool) -> Sides:
    """A node's padding: rows above and below, columns left and right."""
    if isinstance(node, Pool):
        return node.padding
    rows, columns = node.padding
    return rows, rows, columns, columns


def one_bit(weight: Floats) -> tuple[NDArray[np.bool_], Floats] | None:
    """Which of the weights [O, ...] are negative, and the scale [O] of each output channel; None where weights are not
    +c or -c in every one."""
    sizes = np.abs(weight).reshape(len(weight), -1)
    scale = sizes[:, 0].copy()
    if not (np.all(sizes == scale[:, None]) and np.all(scale > 0) and np.all(np.isfinite(scale))):
        return None
    return weight < 0, scale


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
