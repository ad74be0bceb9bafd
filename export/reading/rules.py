"""The table of rules: what a layer, function or method of torch becomes.

Each rule is a function of the builder and of the call's arguments, named as torch names them. What depends on the image
is a `Value`; everything else is a NumPy array, a number, or what Python made of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Entry:
    """How one rule is reached.

    layers: names of classes in torch.nn, and of attributes of theirs that the rule takes. functions: names in
    torch.nn.functional, torch, operator and of methods of tensors, and in which order they take their arguments.
    becomes: in words, for the documentation. kinds: whether the rule wants to know which layer it is, as `kind`.
    """

    rule: Rule
    layers: tuple[str, ...]
    attributes: tuple[str, ...]
    functions: tuple[str, ...]
    arguments: tuple[str, ...]
    becomes: str
    kinds: bool = False


ENTRIES: list[Entry] = []


def reads(
    *,
    layers: str = "",
    attributes: str = "",
    functions: str = "",
    arguments: str = "",
    becomes: str,
    kinds: bool = False,
) -> Callable[[Rule], Rule]:
    """Enters a rule into the table; several names stand in one text, apart by spaces."""

    def enter(rule: Rule) -> Rule:
        words = {"layers": layers, "attributes": attributes, "functions": functions, "arguments": arguments}
        split = {name: tuple(text.split()) for name, text in words.items()}
        ENTRIES.append(Entry(rule, **split, becomes=becomes, kinds=kinds))
        return rule

    return enter


REFUSED = {
    "LSTM GRU RNN": "networks with a state are not exported; use convolutions",
    "MultiheadAttention Transformer TransformerEncoder TransformerEncoderLayer": "attention is not exported",
    "baddbmm einsum scaled_dot_product_attention": "write it with matmul",
    "Embedding EmbeddingBag embedding embedding_bag long int": "the input is an image, not indices; values stay floats",
    "LocalResponseNorm local_response_norm": "use BatchNorm2d, which costs nothing once exported",
    "Conv3d ConvTranspose1d ConvTranspose3d MaxPool1d MaxPool3d AvgPool1d AvgPool3d conv3d"
    " conv_transpose1d conv_transpose3d max_pool1d max_pool3d avg_pool1d avg_pool3d": (
        "use the layer for images, with 2d in its name"
    ),
    "argmax topk sort argsort": "leave it out and do it with the logits",
    "unfold Unfold Fold fold": "use a convolution, or slices",
    "item tolist": "a number that depends on the image cannot steer the forward",
    "grid_sample affine_grid": "no counterpart in .tflite and .onnx that is fast; use interpolate",
    "std var std_mean var_mean": "use mean() of the squares instead",
    "norm": "use (x * x).sum(...).sqrt()",
    "setitem index_put_ masked_fill": "write values with torch.where, cat or pad instead of into a tensor",
}
"""What is refused with advice of its own: names of layers, functions and methods, and the advice."""


ADVICE = {name: text for names, text in REFUSED.items() for name in names.split()}


def advice(name: str) -> str:
    """What a person can do about a layer or function that has no rule."""
    return (
        ADVICE.get(name)
        or "nothing in .tflite and .onnx is known for it; docs/export.md lists what is, build it from that"
    )
