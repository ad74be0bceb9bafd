"""Float layers on 8-bit integers: their weights, each output channel with a step of its own, and what they work on."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsg.export.graph import (
    BinaryGraph,
    Conv,
    Convolution,
    Dense,
    Elementwise,
    Floats,
    Int8Conv,
    Int8Dense,
    Int8Layer,
    MaxPool,
    Node,
    Quantize,
    Reshape,
    Sign,
    Transpose,
)
from fsg.export.passes import fold_affine, rewrite
from fsg.export.reference import compute, run_graph
from fsg.runtime.model.grids import KEPT, LEAST, MOST, Grid, grid_of, is_worth_rounding, sums_fit

_EXACT = np.uint32(0xFFFFFF00)
"""Bits of a step that may be set: with 16 of its mantissa, the product with an integer of 7 bits is not rounded."""
AT_ONCE = 64 * 64 * 16
"""Pixels of the images that are computed together."""


def int8_weights(graph: BinaryGraph) -> BinaryGraph:
    """Rounds the weights of float layers, as they are with batch norms folded in: `in_int8` then finds them."""

    def rule(node: Node) -> list[Node]:
        if isinstance(node, (Conv, Dense)) and node.weight.size >= LEAST:
            return [replace(node, weight=rounded(node.weight))]
        return [node]

    return rewrite(fold_affine(graph), rule)


def in_int8(weight: Floats) -> tuple[NDArray[np.int8], Floats] | None:
    """Integers like `weight` [O, ...] and steps [O] whose products are exactly `weight`; None where there are none."""
    if weight.size < LEAST:
        return None
    rows = weight.reshape(len(weight), -1)
    most = np.abs(rows).max(1)
    steps = np.where(most > 0, most / np.float32(MOST), np.float32(1)).astype(np.float32)
    if (steps.view(np.uint32) & ~_EXACT).any():
        return None
    whole = np.rint(rows / steps[:, None])
    if not np.array_equal(whole * steps[:, None], rows):
        return None
    return whole.astype(np.int8).reshape(weight.shape), steps


def rounded(weight: Floats) -> Floats:
    """The nearest weights [O, ...] that `in_int8` finds."""
    whole, steps = _integers(weight)
    return whole * steps.reshape(-1, *[1] * (weight.ndim - 1))


def _integers(weight: Floats, least: Any = 0) -> tuple[NDArray[np.int8], Floats]:
    """The nearest integers [O, ...] and steps [O], which are at least so long."""
    rows = weight.reshape(len(weight), -1)
    steps = np.maximum(np.abs(rows).max(1) / np.float32(MOST), least).astype(np.float32)
    steps = ((steps.view(np.uint32) + np.uint32(0x80)) & _EXACT).view(np.float32)
    steps[steps == 0] = 1
    whole = np.clip(np.rint(rows / steps[:, None]), -MOST, MOST)
    return whole.astype(np.int8).reshape(weight.shape), steps


def int8_layers(graph: BinaryGraph, images: Floats) -> BinaryGraph:
    """Computes float convolutions and dense layers with integers, on grids chosen by what is seen on images.

    What they read is rounded where it is not the result of such a layer, maybe pooled. Signs of their results are
    signs of integers; binary layers, and what is added to their results, stay as they are. The layer that gives the
    graph's result stays float, with rounded weights, for 256 numbers would make ties of it.
    """
    graph = int8_weights(graph)
    last = _resulting(graph)
    layers = [
        node
        for node in graph.nodes
        if isinstance(node, (Conv, Dense)) and node is not last and sums_fit(node.weight.shape)
    ]
    rectified = {node.name: relu for node in layers if (relu := _relu_behind(graph, node))}
    ends = [rectified.get(node.name, node).name for node in layers]
    grids = _grids(graph, images, {*ends, *(node.inputs[0] for node in layers)})
    grids |= {relu.name: Grid(grids[relu.name].step, -128) for relu in rectified.values()}  # also where all is 0
    dropped: set[str] = set()
    known: dict[str, Grid] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, (Conv, Dense)) and node in layers and (node.inputs[0] in known or _is_worth(node)):
            source = node.inputs[0]
            if source not in known:
                name = f"{source}.on_grid"
                if name not in known:
                    known[name] = grids[source]
                    shape, (step, zero) = graph[source].shape, known[name]
                    nodes.append(Quantize(name=name, inputs=(source,), shape=shape, step=step, zero=zero))
                source = name
            end = rectified.get(node.name, node).name
            dropped.add(end)
            known[end] = grids[end]
            nodes.append(_on_integers(replace(node, name=end, inputs=(source,)), known[source], known[end]))
        elif node.name not in dropped:
            if isinstance(node, KEEP) and node.inputs[0] in known:
                known[node.name] = known[node.inputs[0]]
            nodes.append(node)
    return BinaryGraph(tuple(nodes))


def with_integer_ends(graph: BinaryGraph, images: Floats) -> BinaryGraph:
    """The same on a grid from the image to the result, so that a file can take and give integers."""
    first, last = graph.nodes[0], graph.nodes[-1]
    entry = next((node for node in graph.users(first.name) if isinstance(node, Quantize)), None)
    if entry is None:
        step, zero = grid_of(images)
        entry = Quantize(name=f"{first.name}.on_grid", inputs=(first.name,), shape=first.shape, step=step, zero=zero)
    nodes: list[Node] = [first, entry]
    for node in graph.nodes[1:]:
        if node is not entry:
            inputs = tuple(entry.name if name == first.name else name for name in node.inputs)
            nodes.append(replace(node, inputs=inputs))
    whole = BinaryGraph(tuple(nodes))
    step, zero = _grids(whole, images, {last.name})[last.name]
    end = Quantize(name=f"{last.name}.on_grid", inputs=(last.name,), shape=last.shape, step=step, zero=zero)
    return BinaryGraph((*nodes, end))


def learned_layers(graph: BinaryGraph) -> BinaryGraph:
    """Computes float layers with integers where what they read and give is rounded to grids that were learnt.

    Of a ReLU between a layer and the rounding that reads it alone, only a grid which begins at 0 takes the place. All
    other layers stay float, with rounded weights; what else is rounded stays so.
    """
    graph = int8_weights(graph)
    known: dict[str, Grid] = {}
    whole: dict[str, Int8Layer] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, Quantize):
            known[node.name] = Grid(node.step, node.zero)
        elif isinstance(node, KEEP) and node.inputs[0] in known:
            known[node.name] = known[node.inputs[0]]
        elif isinstance(node, (Conv, Dense)) and sums_fit(node.weight.shape) and node.inputs[0] in known:
            relu = _relu_behind(graph, node)
            readers = graph.users((relu or node).name)
            end = readers[0] if len(readers) == 1 else None
            if isinstance(end, Quantize) and (relu is None or end.zero == -128):
                grid = Grid(end.step, end.zero)
                whole[end.name] = _on_integers(replace(node, name=end.name), known[node.inputs[0]], grid)
                dropped |= {node.name, (relu or node).name}
    return BinaryGraph(tuple(whole.get(node.name, node) for node in graph.nodes if node.name not in dropped))


KEEP = (MaxPool, Reshape, Transpose)
"""What gives none but numbers that it reads."""


def _is_worth(node: Conv | Dense) -> bool:
    return is_worth_rounding(node.weight.shape, node.groups if isinstance(node, Conv) else 1)


def _resulting(graph: BinaryGraph) -> Node:
    """The layer that gives the result, but for what treats every value alike."""
    node = graph.nodes[-1]
    while len(node.inputs) == 1 and not isinstance(node, (Conv, Dense)):
        node = graph[node.inputs[0]]
    return node


def _relu_behind(graph: BinaryGraph, node: Node) -> Elementwise | None:
    """The ReLU that alone reads a layer's result: its grid begins at 0."""
    users = graph.users(node.name)
    relu = users[0] if len(users) == 1 else None
    return relu if isinstance(relu, Elementwise) and relu.operator == "ReLU" else None


def _on_integers(node: Conv | Dense, source: Grid, result: Grid) -> Int8Layer:
    room = np.abs(node.bias) / (np.float32(source.step) * np.float32(1 << 29))  # for the bias among integers
    weight, weight_step = _integers(node.weight, room)
    unit = np.float64(source.step) * weight_step
    kind: Any = Int8Conv if isinstance(node, Conv) else Int8Dense
    whole: Int8Layer = kind(
        **_all_but_numbers(node),
        weight=weight,
        weight_step=weight_step,
        bias=np.rint(node.bias / unit).astype(np.int32),
        source_step=source.step,
        source_zero=source.zero,
        step=result.step,
        zero=result.zero,
    )
    return whole


def _all_but_numbers(node: Node) -> dict[str, Any]:
    """A layer's fields that are the same in float and on integers."""
    window = ("stride", "padding", "dilation", "groups") if isinstance(node, Convolution) else ()
    return {name: getattr(node, name) for name in ("name", "inputs", "shape", *window)}


def _grids(graph: BinaryGraph, images: Floats, names: set[str]) -> dict[str, Grid]:
    """The grid of each value, by what it is on images."""
    parts = _parts(images)
    seen: dict[str, list[Floats]] = {name: [] for name in names}
    for part in parts:
        values = run_graph(graph, part)
        for name in names:
            value = values[name].reshape(-1)
            some = value[:: max(1, value.size * len(parts) // KEPT)]
            seen[name].append(np.concatenate([some, [value.min(), value.max()]]))
    return {name: grid_of(np.concatenate(some)) for name, some in seen.items()}


def _parts(images: Floats) -> list[Floats]:
    """As many of the images together as are computed at once."""
    size = max(1, AT_ONCE // (images.shape[2] * images.shape[3]))
    return [images[start : start + size] for start in range(0, len(images), size)]


def signs_moved(graph: BinaryGraph, images: Floats) -> tuple[int, int]:
    """How many signs of integers there are for the images, and how many would be others before rounding."""
    count = moved = 0
    signs = {node.inputs[0] for node in graph.nodes if isinstance(node, Sign)}
    for part in _parts(images):
        values = run_graph(graph, part)
        exact: dict[str, Floats] = {}
        for node in graph.nodes:
            if isinstance(node, Int8Layer):
                value = compute(before_rounding(node), [values[node.inputs[0]]])
                exact[node.name] = np.maximum(value, (-128 - node.zero) * np.float32(node.step))
            elif isinstance(node, Quantize):
                exact[node.name] = values[node.inputs[0]]
            elif isinstance(node, KEEP) and node.inputs[0] in exact:
                exact[node.name] = compute(node, [exact[node.inputs[0]]])
            if node.name in signs and node.name in exact:
                count += values[node.name].size
                moved += int(((values[node.name] < 0) != (exact[node.name] < 0)).sum())
    return count, moved


def before_rounding(node: Int8Layer) -> Conv | Dense:
    """The float layer with the same weights."""
    weight = node.weight * node.weight_step.reshape(-1, *[1] * (node.weight.ndim - 1))
    bias = (node.bias * (np.float64(node.source_step) * node.weight_step)).astype(np.float32)
    kind: Any = Conv if isinstance(node, Int8Conv) else Dense
    layer: Conv | Dense = kind(**_all_but_numbers(node), weight=weight, bias=bias)
    return layer
