"""The fused Mamba block, compiled and in Triton, against the plain one: outputs and every gradient."""

import os
import random

import pytest
import torch

from fsg import FsgError
from fsg.training.methods.hypernet import MambaBlock, SlowNet
from fsg.training.scan import cpu
from fsg.training.scan.backends import choose_backend

SETS = ("portable", "avx2", "avx512")
# channels, states, taps, tokens and wanted outputs of each sequence
SHAPES = [
    (1, 1, 1, [1], [1]),
    (1, 3, 4, [1, 2, 3], [1, 1, 3]),
    (5, 1, 3, [64, 1, 129], [1, 1, 129]),
    (17, 5, 8, [7] * 31, [1] * 31),
    (100, 16, 8, [150, 64, 65], [30, 64, 2]),
]


def block(channels, states, taps, dtype=torch.float64):
    torch.manual_seed(channels)
    mamba = MambaBlock(channels, states, taps).to(dtype)
    for parameter in mamba.parameters():  # away from the special values that they start with
        parameter.data += 0.2 * torch.randn_like(parameter)
    return mamba


def random_shape(seed):
    choose = random.Random(seed)
    tokens = [choose.randint(1, 200) for _ in range(choose.randint(1, 9))]
    last = [choose.randint(1, count) for count in tokens]
    return choose.randint(1, 40), choose.randint(1, 20), choose.randint(1, 9), tokens, last


def tokens_of(lengths, dtype=torch.float64):
    return [torch.randn(length, dtype=dtype, requires_grad=True) for length in lengths]


def fused(function, mamba, tokens, last, **settings):
    token_ends, output_ends = (torch.tensor([0, *counts]).cumsum(0) for counts in (list(map(len, tokens)), last))
    states, taps = mamba.A_log.shape[1], mamba.conv1d.kernel_size[0]
    output = function(torch.cat(tokens), mamba.packed(), token_ends, output_ends, states, taps, **settings)
    return list(output.split(last))


def everything(mamba, tokens, outputs):
    """Outputs and the gradients of all parameters and tokens, for outputs weighted at random."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(len(o), generator=generator, dtype=torch.float64).to(o) for o in outputs]
    loss = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))
    return [*(o.detach() for o in outputs), *torch.autograd.grad(loss, [*mamba.parameters(), *tokens])]


def assert_close(actual, expected, tolerance):
    """Each within `tolerance` of the largest number of its kind."""
    for a, e in zip(actual, expected, strict=True):
        assert (a.double() - e.double()).abs().max() <= tolerance * (e.abs().max() + 1e-9)


def has(instructions):
    mamba = block(1, 1, 1)
    try:
        fused(cpu.fused_block, mamba, [torch.ones(1).double()], [1], instructions=instructions)
    except FsgError as error:
        assert instructions in str(error)
        return False
    return True


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("shape", [*SHAPES, *range(4)], ids=str)
def test_native_is_the_plain_block(shape, instructions):
    if not has(instructions):
        pytest.skip(f"this processor has no {instructions}")
    channels, states, taps, lengths, last = random_shape(shape) if isinstance(shape, int) else shape
    mamba, tokens = block(channels, states, taps), tokens_of(lengths)
    expected = everything(mamba, tokens, mamba.sequences(tokens, last, backend="plain"))
    outputs = fused(cpu.fused_block, mamba, tokens, last, instructions=instructions)
    assert_close(everything(mamba, tokens, outputs), expected, 1e-11)


@pytest.mark.parametrize("instructions", SETS)
def test_native_in_float32_is_as_precise_as_the_plain_block(instructions):
    if not has(instructions):
        pytest.skip(f"this processor has no {instructions}")
    mamba, tokens = block(20, 16, 4), tokens_of([300, 20])
    expected = everything(mamba, tokens, mamba.sequences(tokens, [100, 1], backend="plain"))
    mamba.float()
    tokens = [t.detach().float().requires_grad_() for t in tokens]
    outputs = fused(cpu.fused_block, mamba, tokens, [100, 1], instructions=instructions)
    assert_close(everything(mamba, tokens, outputs), expected, 2e-4)
    assert_close(everything(mamba, tokens, mamba.sequences(tokens, [100, 1], backend="plain")), expected, 2e-4)


@pytest.mark.parametrize("bias", [-60.0, 0.0, 60.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_step_sizes(bias, dtype):
    mamba, tokens = block(6, 4, 4, dtype), tokens_of([90, 3], dtype)
    mamba.dt_proj.bias.data += bias
    actual = everything(mamba, tokens, mamba.sequences(tokens, [50, 3], backend="native"))
    expected = everything(mamba, tokens, mamba.sequences(tokens, [50, 3], backend="plain"))
    assert all(value.isfinite().all() for value in actual)
    assert_close(actual, expected, 1e-11 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forgotten_tokens_are_skipped_without_a_trace(dtype):
    mamba, tokens, last = block(10, 4, 4, dtype), tokens_of([3000, 50, 2500], dtype), [700, 50, 1]
    mamba.dt_proj.bias.data += 6
    whole, skipped = (
        everything(mamba, tokens, fused(cpu.fused_block, mamba, tokens, last, skip=skip)) for skip in (False, True)
    )
    assert_close(skipped, whole, 1e-6 if dtype == torch.float32 else 1e-14)
    long, short, other = skipped[-3:]
    assert (long[:1000] == 0).all() and (other[:1000] == 0).all()
    assert (long[-700:] != 0).all() and (short != 0).all() and other[-1] != 0


def test_a_state_that_forgets_slowly_keeps_all_tokens():
    mamba, tokens = block(10, 4, 4), tokens_of([3000])
    mamba.dt_proj.bias.data += 6
    mamba.A_log.data[3, 2] = -20
    mamba.dt_proj.weight.data[3] = 0
    actual = everything(mamba, tokens, mamba.sequences(tokens, [10], backend="native"))
    assert (actual[-1] != 0).all()
    assert_close(actual, everything(mamba, tokens, mamba.sequences(tokens, [10], backend="plain")), 1e-11)


def test_results_do_not_depend_on_the_number_of_threads():
    mamba, tokens = block(5, 2, 3, torch.float32), tokens_of([900] * 60, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(everything(mamba, tokens, mamba.sequences(tokens, [100] * 60, backend="native")))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


def test_sequences_do_not_mix():
    mamba, tokens = block(9, 4, 4), tokens_of([6, 70, 1, 6])
    together = mamba.sequences(tokens, [1, 70, 1, 6], backend="native")
    for sequence, output in zip(tokens, together, strict=True):
        (alone,) = mamba.sequences([sequence], [len(output)], backend="native")
        assert torch.equal(alone, output)


@pytest.mark.parametrize("backend", ["plain", "native"])
@pytest.mark.parametrize("last", [1, 4, 6, None])
def test_forward_gives_the_last_outputs(backend, last):
    mamba, tokens = block(8, 4, 4), torch.randn(33, 6, 1).double()
    with torch.no_grad():
        full = mamba(tokens, backend="plain")
        output = mamba(tokens, last=last, backend=backend)
    torch.testing.assert_close(output, full[:, -(last or 6) :], rtol=1e-12, atol=1e-12)


def test_the_slow_net_learns_the_same_through_either():
    torch.manual_seed(0)
    net, history, layer = SlowNet(3, 8, 4, 4), torch.randn(513, 5), torch.arange(513) % 3
    gradients = []
    for backend in ("plain", "native"):
        tokens = torch.cat([net.layer_embedding(layer), history], 1)[..., None]
        loss = net.mamba(tokens, last=1, backend=backend).square().sum()
        gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    assert_close(gradients[1], gradients[0], 1e-4)


def test_the_library_is_taken_where_it_is_built(monkeypatch, tmp_path):
    tokens = torch.randn(3)
    assert choose_backend(tokens) == "native"
    assert choose_backend(tokens.bfloat16()) == "plain"
    monkeypatch.setattr(cpu, "LIBRARY", tmp_path / "none.so")
    cpu._library.cache_clear()
    try:
        assert choose_backend(tokens) == "plain"
        with pytest.raises(FsgError, match="native scan cannot compute float32 on cpu"):
            choose_backend(tokens, "native")
    finally:
        cpu._library.cache_clear()


def test_impossible_requests_are_refused():
    mamba = MambaBlock(4, 2, 2)
    with pytest.raises(FsgError, match="7 outputs of 6 tokens"):
        mamba(torch.randn(2, 6, 1), last=7)
    with pytest.raises(FsgError, match="0 outputs of 6 tokens"):
        mamba.sequences([torch.randn(6)], [0])
    with pytest.raises(FsgError, match="unknown scan backend 'fast'"):
        mamba(torch.randn(2, 6, 1), backend="fast")
    with pytest.raises(FsgError, match="triton scan cannot compute float32 on cpu"):
        mamba(torch.randn(2, 6, 1), backend="triton")


TRITON_SHAPES = [(1, 1, 1, [1], [1]), (5, 3, 4, [33, 1, 70], [2, 1, 70]), (9, 4, 4, [6] * 5, [1] * 5)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", TRITON_SHAPES, ids=str)
def test_triton_is_the_plain_block(shape):
    """In Triton's interpreter where there is no CUDA device."""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are first imported
    pytest.importorskip("triton", reason="triton is installed only with PyTorch for CUDA")
    from fsg.training.scan import cuda

    channels, states, taps, lengths, last = shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mamba = block(channels, states, taps).to(device)
    tokens = [t.detach().to(device).requires_grad_() for t in tokens_of(lengths)]
    expected = everything(mamba, tokens, mamba.sequences(tokens, last, backend="plain"))
    outputs = fused(cuda.fused_block, mamba, tokens, last)
    assert_close(everything(mamba, tokens, outputs), expected, 1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_cuda_the_published_sizes_agree(dtype):
    mamba = block(100, 16, 8).to("cuda", dtype)
    tokens = [t.detach().to("cuda", dtype).requires_grad_() for t in tokens_of([2000, 300])]
    assert choose_backend(tokens[0]) == "triton"
    expected = everything(mamba, tokens, mamba.sequences(tokens, [400, 60], backend="plain"))
    actual = everything(mamba, tokens, mamba.sequences(tokens, [400, 60]))
    assert_close(actual, expected, 1e-10 if dtype == torch.float64 else 1e-3)
