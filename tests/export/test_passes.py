"""Rewrites keep what a graph computes, to the bit, and do what they are for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Functions, Joined, assert_same, exact, head, images, outputs, random_network, result
from torch import nn

from fsg import FsgError
from fsg.export import graph as g
from fsg.export import passes, recognise
from fsg.export.formats.tflite.lower import lower
from fsg.export.reference import run_graph
from fsg.export.trace import trace
from fsg.training.networks.layers import BinaryActivation, BinaryConv2d, BinaryLinear

SEEDS = range(40)
BOTH = pytest.mark.parametrize("one_bit", [True, False])


def kinds(graph):
    return [type(node) for node in graph.nodes[1:]]


def sequence(*layers, shape=(3, 9, 8), seed=0):
    return trace(exact(nn.Sequential(*layers), seed), shape)


def assert_kept(before, after, x, what=""):
    """The same output; every value of the shape that its node says; every name once, before it is read."""
    np.testing.assert_array_equal(result(after, x), result(before, x), err_msg=what)
    for name, value in run_graph(after, x.numpy()).items():
        assert tuple(value.shape[1:]) == after[name].shape[1:], f"{what} {name}"
    seen = set()
    for node in after.nodes:
        assert node.name not in seen and set(node.inputs) <= seen
        seen.add(node.name)


@BOTH
@pytest.mark.parametrize(
    "rewrite",
    [passes.sign_last, passes.dense_as_convolution, passes.float_where_input_is_float, passes.remove_unused],
)
def test_rewrites_keep_every_bit(rewrite, one_bit):
    for seed in SEEDS:
        model, shape = random_network(seed, one_bit=one_bit)
        graph = trace(model, shape)
        if one_bit or rewrite is not passes.float_where_input_is_float:
            assert_kept(graph, rewrite(graph), images(3, *shape, seed=seed), str(seed))
        else:  # a scale inside a long float sum rounds otherwise
            x = images(3, *shape, seed=seed)
            assert_same(result(rewrite(graph), x), result(graph, x), str(seed))


@BOTH
def test_folding_keeps_the_result(one_bit):
    for seed in SEEDS:
        model, shape = random_network(seed, one_bit=one_bit)
        graph, x = trace(model, shape), images(3, *shape, seed=seed)
        folded = passes.fold_affine(graph)
        assert_same(result(folded, x), result(graph, x), str(seed))
        for node in folded.nodes:
            if isinstance(node, g.Affine):
                assert not isinstance(folded[node.inputs[0]], (g.Convolution, g.Dense, g.BinaryDense, g.Affine))


@BOTH
def test_all_of_them_in_a_row_keep_the_result(one_bit):
    refused = 0
    for seed in SEEDS:
        model, shape = random_network(seed, one_bit=one_bit)
        x = images(3, *shape, seed=seed)
        graph = recognise.simplify(trace(model, shape))
        assert_same(result(graph, x), outputs(model, x), str(seed))
        try:
            lowered = lower(graph)
        except FsgError as error:
            assert "to TensorFlow Lite" in str(error)
            refused += 1
            continue
        assert_same(result(lowered, x), outputs(model, x), str(seed))
        assert not lowered.count(g.BinaryDense)
        assert all(lowered.takes_bits(node) for node in lowered.nodes if isinstance(node, g.BinaryConv))
    assert refused < len(SEEDS) / 2


# --- folding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3, bias=False), BinaryConv2d(3, 5, 3), nn.BatchNorm2d(3)],
    ids=lambda layer: type(layer).__name__,
)
def test_two_batch_norms_fold_into_the_layer_before_them(layer):
    channels = 3 if isinstance(layer, nn.BatchNorm2d) else 5
    graph = sequence(layer, nn.BatchNorm2d(channels), nn.Dropout(), nn.BatchNorm2d(channels, affine=False))
    folded = passes.fold_affine(graph)
    assert [node.name for node in folded.nodes[1:]] == ["0"]
    assert_kept(graph, folded, images(4, 3, 9, 8))


@pytest.mark.parametrize("layer", [nn.Linear(3, 5), nn.Linear(3, 5, bias=False), BinaryLinear(3, 5)])
def test_batch_norm_folds_into_dense_layers(layer):
    graph = sequence(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer, nn.BatchNorm1d(5))
    folded = passes.fold_affine(graph)
    assert not folded.count(g.Affine)
    assert_same(result(folded, images(4, 3, 9, 8)), result(graph, images(4, 3, 9, 8)))


def test_a_layer_that_something_else_reads_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = BinaryConv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    graph = trace(exact(Shared()), (3, 6, 6))
    assert kinds(passes.fold_affine(graph)) == [g.BinaryConv, g.Affine, g.Arithmetic]


# --- order ------------------------------------------------------------------------------------------------


def test_signs_move_behind_pools_and_reshapes():
    graph = sequence(
        BinaryActivation(),
        nn.MaxPool2d(2),
        nn.MaxPool2d((2, 1), 1),
        BinaryConv2d(3, 5, 3),
        nn.AdaptiveAvgPool2d(1),
        BinaryActivation(),
        nn.Flatten(),
        BinaryLinear(5, 7),
    )
    moved = passes.sign_last(graph)
    assert kinds(moved) == [
        *(g.MaxPool, g.MaxPool, g.Sign, g.BinaryConv),
        *(g.Reduce, g.Reshape, g.Sign, g.BinaryDense),
    ]
    assert_kept(graph, moved, images(4, 3, 9, 8))


def test_a_sign_that_something_else_reads_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.sign, self.pool, self.mean = BinaryActivation(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            bits = self.sign(x)
            return self.mean(self.pool(bits)) + self.mean(bits)

    graph = trace(Shared(), (3, 6, 6))
    moved = passes.sign_last(graph)
    assert moved.count(g.Sign) == 2 and moved["pool"].inputs == ("pool.float",)
    assert_kept(graph, moved, images(4, 3, 6, 6))


@pytest.mark.parametrize("size", [8, 9])
def test_signs_move_behind_concatenations(size):
    graph = trace(exact(Joined()), (3, size, 8))
    moved = passes.sign_last(graph)
    layers = [node for node in graph.nodes if isinstance(node, g.BinaryLayer)]
    assert [graph.takes_bits(node) for node in layers] == [True, True, False, False]
    assert all(moved.takes_bits(moved[node.name]) for node in layers) and len(layers) == 4
    for seed in range(3):
        x = images(4, 3, size, 8, seed=seed)
        assert_kept(graph, moved, x)
        assert_kept(graph, passes.dense_as_convolution(moved), x)
        assert_same(result(lower(recognise.simplify(graph)), x), result(graph, x))


def test_signs_that_are_joined_with_other_values_stay():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.sign, self.conv = BinaryActivation(), BinaryConv2d(6, 4, 3)

        def forward(self, x):
            return self.conv(torch.cat([self.sign(x), x], 1))

    for model in (Mixed(), Functions()):
        graph = trace(exact(model), (3, 6, 6))
        moved = passes.sign_last(graph)
        assert kinds(moved) == kinds(graph)
        assert_kept(graph, moved, images(4, 3, 6, 6))


@pytest.mark.parametrize("size", [6, 7, 8, 9])
@pytest.mark.parametrize("before", [[], [nn.ReLU()], [BinaryActivation()]], ids=["any", "relu", "sign"])
def test_pools_are_padded_by_a_node_of_their_own(size, before):
    for pool in (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 5), (1, 3), (1, 2)), nn.AvgPool2d(3, 2, (0, 1))):
        graph = sequence(*before, pool, shape=(3, size, 8))
        after = passes.pad_before_pool(graph)
        assert_kept(graph, after, images(4, 3, size, 8))
        padded = [node for node in after.nodes if isinstance(node, g.Pad)]
        zero = isinstance(pool, nn.AvgPool2d) or (before and isinstance(before[0], nn.ReLU))
        assert len(padded) == 1 and (padded[0].value == 0) == bool(zero)
    assert kinds(passes.pad_before_pool(sequence(nn.MaxPool2d(2)))) == [g.MaxPool]


def test_a_sign_moves_behind_a_padded_pool():
    graph = sequence(BinaryActivation(), nn.MaxPool2d(3, 2, 1), BinaryConv2d(3, 5, 3))
    moved = passes.sign_last(graph)
    assert kinds(moved) == [g.MaxPool, g.Sign, g.BinaryConv]
    assert_kept(graph, moved, images(4, 3, 9, 8))
    assert_kept(graph, lower(moved), images(4, 3, 9, 8))


# --- for Larq Compute Engine ------------------------------------------------------------------------------


def test_dense_layers_on_signs_become_convolutions():
    graph = sequence(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        BinaryActivation(),
        BinaryLinear(3, 33, quantizer="scaled-sign"),
        BinaryActivation(),
        BinaryLinear(33, 7),
        nn.ReLU(),
        BinaryLinear(7, 4),
    )
    after = passes.dense_as_convolution(graph)
    assert after.count(g.BinaryConv) == 2 and after.count(g.BinaryDense) == 1
    assert all(isinstance(after[node.inputs[0]], g.Reshape) for node in after.nodes if isinstance(node, g.Sign))
    assert_kept(graph, after, images(4, 3, 9, 8))


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.5])
def test_binary_layers_without_signs_become_float(value):
    layers = [BinaryConv2d(3, 5, 3, 2, (1, 2), padding_value=value, quantizer="scaled-sign"), *head(5)[:2]]
    graph = sequence(*layers, BinaryLinear(5, 7))
    after = passes.float_where_input_is_float(graph)
    assert kinds(after) == [*([g.Pad] if value else []), g.Conv, g.Reduce, g.Reshape, g.Dense]
    assert_same(result(after, images(4, 3, 9, 8)), result(graph, images(4, 3, 9, 8)))


@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)])
@pytest.mark.parametrize("padding", [0, 1, 2, (1, 0)])
@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_goes_before_the_sign_unless_it_keeps_the_size(kernel, stride, padding, dilation):
    for value in (1.0, -1.0):
        conv = BinaryConv2d(3, 4, kernel, stride, padding, dilation, padding_value=value)
        graph = sequence(BinaryActivation(), conv, shape=(3, 11, 10))
        after = passes.pad_before_sign(graph)
        assert_kept(graph, after, images(4, 3, 11, 10))
        keeps = graph["1"].shape[2:] == (11, 10) and conv.stride == (1, 1) and value == 1
        if conv.padding == (0, 0) or keeps:
            assert kinds(after) == [g.Sign, g.BinaryConv]
        else:
            assert kinds(after) == [g.Pad, g.Sign, g.BinaryConv] and after["1"].padding == (0, 0)


def test_a_shared_sign_is_padded_for_each_reader():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.sign = BinaryActivation()
            self.a, self.b = BinaryConv2d(3, 4, 3, 2, 1), BinaryConv2d(3, 4, 5, 2, 2)
            self.c = BinaryConv2d(3, 4, 1, 2)

        def forward(self, x):
            bits = self.sign(x)
            return self.a(bits) + self.b(bits) + self.c(bits)

    graph = trace(exact(Branches()), (3, 8, 8))
    after = passes.pad_before_sign(graph)
    assert after.count(g.Sign) == 3 and after["c"].inputs == ("sign",)
    assert_kept(graph, after, images(4, 3, 8, 8))


@pytest.mark.parametrize(
    ("stride", "value", "remedy"),
    [(2, 0.0, "has to keep the image's size"), (1, 0.5, "leaves one bit"), (2, 2.0, "leaves one bit")],
)
def test_padding_that_no_bit_can_hold_is_refused(stride, value, remedy):
    graph = sequence(nn.Conv2d(3, 3, 1), BinaryActivation(), BinaryConv2d(3, 4, 3, stride, 1, padding_value=value))
    with pytest.raises(FsgError, match=rf"cannot export 2 to TensorFlow Lite or C: padding .* with {value:g} {remedy}"):
        lower(graph)
    assert recognise.simplify(graph).count(g.BinaryConv) == 1  # other formats take it


def test_zero_padding_that_keeps_the_size_stays():
    graph = sequence(BinaryActivation(), BinaryConv2d(3, 4, 3, padding=2, dilation=2, padding_value=0))
    assert kinds(lower(graph)) == [g.Sign, g.BinaryConv]


def test_grouped_binary_convolutions_are_refused():
    with pytest.raises(FsgError, match=r"cannot export 1 to TensorFlow Lite: .* in 3 groups; train it with groups=1"):
        lower(sequence(BinaryActivation(), BinaryConv2d(3, 6, 3, groups=3)))
    lower(sequence(BinaryConv2d(3, 6, 3, groups=3)))


def same_convolution(node: g.Conv, x: torch.Tensor) -> torch.Tensor:
    """TensorFlow's convolution with padding SAME, from its documentation."""
    pads = []
    for axis in (1, 0):
        size, kernel = x.shape[2 + axis], node.weight.shape[2 + axis]
        reach = node.dilation[axis] * (kernel - 1) + 1
        total = max((-(-size // node.stride[axis]) - 1) * node.stride[axis] + reach - size, 0)
        pads += [total // 2, total - total // 2]
    weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    return F.conv2d(F.pad(x, pads), weight, bias, node.stride, 0, node.dilation, node.groups)


@pytest.mark.parametrize("size", [6, 7, 8, 9, 10, 11])
def test_same_padding_is_known_where_it_is_the_symmetric_one(size):
    found = set()
    for kernel, stride, dilation in [(k, s, d) for k in (1, 2, 3, 4, 5, 7) for s in (1, 2, 3, 4) for d in (1, 2, 3)]:
        for padding in {0, 1, 2, 3, dilation * (kernel - 1) // 2}:
            if dilation * (kernel - 1) + 1 > size + 2 * padding:
                continue
            graph = sequence(nn.Conv2d(2, 3, kernel, stride, padding, dilation), shape=(2, size, 13))
            x, conv = images(3, 2, size, 13), graph.nodes[1]
            ours, same = result(graph, x), same_convolution(conv, x)
            agrees = ours.shape == same.shape and torch.allclose(ours, same)
            assert passes.is_same(conv, (size, 13)) == agrees, f"{kernel} {stride} {padding} {dilation}"
            found.add(agrees)
    assert found == {True, False}


def test_float_convolutions_are_lowered_as_they_are():
    for layer in (nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 2, 2, 1)):
        graph = sequence(layer)
        assert kinds(lower(graph)) == [g.Conv]
        assert lower(graph)["0"].weight is graph["0"].weight


def test_unused_nodes_go_but_the_input_stays():
    one, two = (replace(node, name=name) for node, name in zip(sequence(nn.ReLU()).nodes[1:] * 2, "ab", strict=True))
    start = sequence(nn.ReLU()).nodes[0]
    chain = replace(one, name="c", inputs=("b",))
    graph = g.BinaryGraph((start, one, two, chain, replace(one, name="d", inputs=("a",))))
    assert [node.name for node in passes.remove_unused(graph).nodes] == [start.name, "a", "d"]


# --- shuffles ---------------------------------------------------------------------------------------------


def shuffle(*steps):
    class Shuffle(nn.Module):
        def forward(self, x):
            for shape, axes in steps:
                x = x.reshape(len(x), *shape)
                x = x.permute(0, *axes) if axes else x
            return x

    return Shuffle()


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([((2, 3, 4, 5), (2, 1, 3, 4)), ((6, 4, 5), ())], g.Take),
        ([((2, 3, 20), (2, 1, 3)), ((6, 4, 5), ())], g.Take),
        ([((6, 2, 2, 5), (1, 3, 2, 4)), ((6, 4, 5), ())], g.Take),
        ([((6, 4, 5), (1, 3, 2)), ((6, 5, 4), (1, 3, 2))], g.Reshape),  # nothing
        ([((2, 3, 4, 5), (2, 1, 4, 3)), ((6, 4, 5), ())], None),  # more than an axis
        ([((6, 5, 4), ())], None),
    ],
)
def test_shuffles_are_taken(steps, kind):
    model, x = shuffle(*steps), images(2, 6, 4, 5)
    before = trace(model, (6, 4, 5))
    after = recognise.simplify(before)
    assert_kept(before, after, x)
    assert kinds(after) == [kind] if kind else kinds(after) == kinds(before)


def test_a_shuffle_whose_steps_are_read_stays():
    class Read(nn.Module):
        def forward(self, x):
            y = x.reshape(len(x), 2, 3, 4, 5).transpose(1, 2)
            return torch.cat([y.reshape(x.shape), y.mean(1)[:, :, :, :]], 1)

    before = trace(Read(), (6, 4, 5))
    after = recognise.simplify(before)
    assert_kept(before, after, images(2, 6, 4, 5))
