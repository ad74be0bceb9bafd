"""The fused Mamba block on CUDA devices, with its gradients: Triton kernels for the equations of native/scan.h.

Sequences are cut into chunks of CHUNK tokens, and one program walks through one chunk with all channels and states in
registers. Chunks depend on each other only through the state at their borders, which is linear in the state before:
a first pass finds what each chunk adds from a state of 0, a second carries it over the borders one by one, and a third
computes the chunks with the right states. The backward pass does the same with the state's gradient, from the end. It
stores the states of one chunk per program, and nothing else of size tokens x channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32  # tokens
PROGRAMS = 512  # of the backward pass, each with its own sums of gradients, which are added in a fixed order
CARRIED = 128  # state elements that one program carries over the borders


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    e = tl.exp(-tl.abs(x))
    sum = 1 + e  # log(sum) e / (sum - 1) has the relative precision for small e that log(1 + e) has not
    log = tl.where(sum == 1, e, tl.log(sum) * (e / tl.where(sum == 1, 1, sum - 1)))
    return tl.maximum(x, 0) + log


@triton.jit
def _row(parameters, row, channels, e, mask):  # type: ignore[no-untyped-def]
    return tl.load(parameters + row * channels + e, mask=mask, other=0)


@triton.jit
def _table(parameters, row, count, channels, e, columns, mask):  # type: ignore[no-untyped-def]
    """Rows `row` to `row` + `count` as the columns of a [channels, columns] block."""
    at = parameters + (row + columns)[None, :] * channels + e[:, None]
    return tl.load(at, mask=mask[:, None] & (columns < count)[None, :], other=0)


@triton.jit
def _store_table(to, row, count, channels, e, columns, mask, values):  # type: ignore[no-untyped-def]
    at = to + (row + columns)[None, :] * channels + e[:, None]
    tl.store(at, values, mask=mask[:, None] & (columns < count)[None, :])


@triton.jit
def _parameters(parameters, channels, mask, e, s, k, K: tl.constexpr, S: tl.constexpr):  # type: ignore[no-untyped-def]
    """The rows of `MambaBlock.packed`, in their order."""
    taps = _table(parameters, 0, K, channels, e, k, mask)
    conv_bias = _row(parameters, K, channels, e, mask)
    gate = _row(parameters, K + 1, channels, e, mask)
    to_r = _row(parameters, K + 2, channels, e, mask)
    to_B = _table(parameters, K + 3, S, channels, e, s, mask)
    to_C = _table(parameters, K + 3 + S, S, channels, e, s, mask)
    dt_weight = _row(parameters, K + 3 + 2 * S, channels, e, mask)
    dt_bias = _row(parameters, K + 4 + 2 * S, channels, e, mask)
    A = _table(parameters, K + 5 + 2 * S, S, channels, e, s, mask)
    D = _row(parameters, K + 5 + 3 * S, channels, e, mask)
    out = _row(parameters, K + 6 + 3 * S, channels, e, mask)
    return taps, conv_bias, gate, to_r, to_B, to_C, dt_weight, dt_bias, A, D, out


@triton.jit
def _slopes(window, taps, conv_bias, to_r, dt_weight, dt_bias):  # type: ignore[no-untyped-def]
    """u and dt, with what the backward pass needs from the way there."""
    c = conv_bias + tl.sum(taps * window[None, :], 1)
    sigmoid = _sigmoid(c)
    u = c * sigmoid
    r = tl.sum(to_r * u, 0)
    x = dt_weight * r + dt_bias
    return u, _softplus(x), sigmoid, r, x


@triton.jit
def _step(window, taps, conv_bias, to_r, dt_weight, dt_bias):  # type: ignore[no-untyped-def]
    parts = _slopes(window, taps, conv_bias, to_r, dt_weight, dt_bias)
    return parts[0], parts[1]


@triton.jit
def _chunk(chunks, p):  # type: ignore[no-untyped-def]
    """Of one chunk: begin, end, first token of its sequence, first token with an output, index of that output."""
    at = chunks + p * 5
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4)


@triton.jit
def _window(tokens, t, first, k, K: tl.constexpr):  # type: ignore[no-untyped-def]
    seen = t - K + 1 + k
    return tl.load(tokens + seen, mask=(seen >= first) & (k < K), other=0)


@triton.jit
def _local_kernel(  # type: ignore[no-untyped-def]
    tokens, parameters, chunks, grad_outputs, added, passed, channels,
    K: tl.constexpr, S: tl.constexpr, KP: tl.constexpr, SP: tl.constexpr, EP: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state (or, in REVERSE, to the state's gradient) and its time that passes, sum dt."""
    p = tl.program_id(0).to(tl.int64)
    e, s, k = tl.arange(0, EP), tl.arange(0, SP), tl.arange(0, KP)
    mask = e < channels
    begin, end, first, first_output, output = _chunk(chunks, p)
    taps, conv_bias, gate, to_r, to_B, to_C, dt_weight, dt_bias, A, _D, out = _parameters(
        parameters, channels, mask, e, s, k, K, S
    )
    state = tl.zeros_like(A)
    time = tl.zeros_like(conv_bias)
    for i in range(0, end - begin):
        t = begin + i
        if REVERSE:
            t = end - 1 - i
        window = _window(tokens, t, first, k, K)
        u, dt = _step(window, taps, conv_bias, to_r, dt_weight, dt_bias)
        decay = tl.exp(dt[:, None] * A)
        if REVERSE:
            z = gate * tl.load(tokens + t)
            wanted = t >= first_output
            grad_y = out * z * _sigmoid(z) * tl.load(grad_outputs + output + t - first_output, mask=wanted, other=0)
            C = tl.sum(to_C * u[:, None], 0)
            state = (state + grad_y[:, None] * C[None, :]) * decay
        else:
            B = tl.sum(to_B * u[:, None], 0)
            state = decay * state + (dt * u)[:, None] * B[None, :]
        time += dt
    at = p * channels * S + e[:, None] * S + s[None, :]
    tl.store(added + at, state, mask=mask[:, None] & (s < S)[None, :])
    tl.store(passed + p * channels + e, time, mask=mask)


@triton.jit
def _carry_kernel(  # type: ignore[no-untyped-def]
    chunk_ends, parameters, added, passed, channels,
    K: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replaces what every chunk adds by the state before it (in REVERSE: by the gradient of the state behind it)."""
    sequence = tl.program_id(0)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    mask = at < channels * S
    channel = at // S
    A = tl.load(parameters + (K + 5 + 2 * S + at % S) * channels + channel, mask=mask, other=0)
    begin, end = tl.load(chunk_ends + sequence), tl.load(chunk_ends + sequence + 1)
    state = tl.zeros_like(A)
    for i in range(0, end - begin):
        p = begin + i
        if REVERSE:
            p = end - 1 - i
        to = added + p * channels * S + at
        more = tl.load(to, mask=mask, other=0)
        tl.store(to, state, mask=mask)
        state = tl.exp(A * tl.load(passed + p * channels + channel, mask=mask, other=0)) * state + more


@triton.jit
def _output_kernel(  # type: ignore[no-untyped-def]
    tokens, parameters, chunks, borders, outputs, channels,
    K: tl.constexpr, S: tl.constexpr, KP: tl.constexpr, SP: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0).to(tl.int64)
    e, s, k = tl.arange(0, EP), tl.arange(0, SP), tl.arange(0, KP)
    mask = e < channels
    begin, end, first, first_output, output = _chunk(chunks, p)
    taps, conv_bias, gate, to_r, to_B, to_C, dt_weight, dt_bias, A, D, out = _parameters(
        parameters, channels, mask, e, s, k, K, S
    )
    at = p * channels * S + e[:, None] * S + s[None, :]
    h = tl.load(borders + at, mask=mask[:, None] & (s < S)[None, :], other=0)
    for t in range(begin, tl.where(end > first_output, end, begin)):
        window = _window(tokens, t, first, k, K)
        u, dt = _step(window, taps, conv_bias, to_r, dt_weight, dt_bias)
        B = tl.sum(to_B * u[:, None], 0)
        C = tl.sum(to_C * u[:, None], 0)
        h = tl.exp(dt[:, None] * A) * h + (dt * u)[:, None] * B[None, :]
        y = tl.sum(h * C[None, :], 1) + D * u
        z = gate * tl.load(tokens + t)
        value = tl.sum(out * y * z * _sigmoid(z), 0)
        tl.store(outputs + output + t - first_output, value, mask=t >= first_output)


@triton.jit
def _gradient_kernel(  # type: ignore[no-untyped-def]
    tokens, parameters, chunks, borders, carries, grad_outputs, history, grad_windows, grad_parameters,
    channels, count, rows,
    K: tl.constexpr, S: tl.constexpr, KP: tl.constexpr, SP: tl.constexpr, EP: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """All gradients of every PROGRAMS-th chunk; history is this program's room for LENGTH states."""
    program = tl.program_id(0).to(tl.int64)
    e, s, k = tl.arange(0, EP), tl.arange(0, SP), tl.arange(0, KP)
    mask = e < channels
    taps, conv_bias, gate, to_r, to_B, to_C, dt_weight, dt_bias, A, D, out = _parameters(
        parameters, channels, mask, e, s, k, K, S
    )
    sum_taps, sum_conv_bias, sum_gate = tl.zeros_like(taps), tl.zeros_like(conv_bias), tl.zeros_like(conv_bias)
    sum_to_r, sum_to_B, sum_to_C = tl.zeros_like(conv_bias), tl.zeros_like(A), tl.zeros_like(A)
    sum_dt_weight, sum_dt_bias, sum_A = tl.zeros_like(conv_bias), tl.zeros_like(conv_bias), tl.zeros_like(A)
    sum_D, sum_out = tl.zeros_like(conv_bias), tl.zeros_like(conv_bias)
    inside = e[:, None] * S + s[None, :]
    used = mask[:, None] & (s < S)[None, :]
    room = history + program * LENGTH * channels * S + inside
    for p in range(program, count, tl.num_programs(0)):
        begin, end, first, first_output, output = _chunk(chunks, p)
        h = tl.load(borders + p * channels * S + inside, mask=used, other=0)
        for t in range(begin, end):
            tl.store(room + (t - begin) * channels * S, h, mask=used)
            window = _window(tokens, t, first, k, K)
            u, dt = _step(window, taps, conv_bias, to_r, dt_weight, dt_bias)
            h = tl.exp(dt[:, None] * A) * h + (dt * u)[:, None] * tl.sum(to_B * u[:, None], 0)[None, :]
        tl.debug_barrier()
        carry = tl.load(carries + p * channels * S + inside, mask=used, other=0)
        for i in range(0, end - begin):
            t = end - 1 - i
            window = _window(tokens, t, first, k, K)
            u, dt, sigmoid, r, x = _slopes(window, taps, conv_bias, to_r, dt_weight, dt_bias)
            B = tl.sum(to_B * u[:, None], 0)
            C = tl.sum(to_C * u[:, None], 0)
            decay = tl.exp(dt[:, None] * A)
            before = tl.load(room + (t - begin) * channels * S, mask=used, other=0)
            h = decay * before + (dt * u)[:, None] * B[None, :]
            y = tl.sum(h * C[None, :], 1) + D * u
            token = tl.load(tokens + t)
            z = gate * token
            open_gate = _sigmoid(z)
            silu = z * open_gate
            grad = tl.load(grad_outputs + output + t - first_output, mask=t >= first_output, other=0)
            grad_y = grad * out * silu
            grad_z = grad * out * y * (open_gate + silu * (1 - open_gate))
            grad_h = carry + grad_y[:, None] * C[None, :]
            carry = grad_h * decay
            exponent = carry * before
            grad_B = tl.sum(grad_h * (dt * u)[:, None], 0)
            grad_C = tl.sum(grad_y[:, None] * h, 0)
            grad_input = tl.sum(grad_h * B[None, :], 1)
            grad_x = (tl.sum(exponent * A, 1) + grad_input * u) * _sigmoid(x)
            grad_r = tl.sum(grad_x * dt_weight, 0)
            grad_u = grad_input * dt + grad_y * D + grad_r * to_r
            grad_u += tl.sum(to_B * grad_B[None, :] + to_C * grad_C[None, :], 1)
            grad_c = grad_u * (sigmoid + u * (1 - sigmoid))
            grad_window = tl.sum(taps * grad_c[:, None], 0) + tl.where(k == K - 1, tl.sum(grad_z * gate, 0), 0)
            inside_sequence = t - K + 1 + k >= first
            tl.store(grad_windows + t * K + k, tl.where(inside_sequence, grad_window, 0), mask=k < K)
            sum_taps += grad_c[:, None] * window[None, :]
            sum_conv_bias += grad_c
            sum_gate += grad_z * token
            sum_to_r += grad_r * u
            sum_to_B += grad_B[None, :] * u[:, None]
            sum_to_C += grad_C[None, :] * u[:, None]
            sum_dt_weight += grad_x * r
            sum_dt_bias += grad_x
            sum_A += exponent * dt[:, None]
            sum_D += grad_y * u
            sum_out += grad * silu * y
        tl.debug_barrier()
    to = grad_parameters + program * rows * channels
    _store_table(to, 0, K, channels, e, k, mask, sum_taps)
    tl.store(to + K * channels + e, sum_conv_bias, mask=mask)
    tl.store(to + (K + 1) * channels + e, sum_gate, mask=mask)
    tl.store(to + (K + 2) * channels + e, sum_to_r, mask=mask)
    _store_table(to, K + 3, S, channels, e, s, mask, sum_to_B)
    _store_table(to, K + 3 + S, S, channels, e, s, mask, sum_to_C)
    tl.store(to + (K + 3 + 2 * S) * channels + e, sum_dt_weight, mask=mask)
    tl.store(to + (K + 4 + 2 * S) * channels + e, sum_dt_bias, mask=mask)
    _store_table(to, K + 5 + 2 * S, S, channels, e, s, mask, sum_A)
    tl.store(to + (K + 5 + 3 * S) * channels + e, sum_D, mask=mask)
    tl.store(to + (K + 6 + 3 * S) * channels + e, sum_out, mask=mask)


@dataclass
class _Chunks:
    """Where the chunks lie: table [chunks, 5] as `_chunk` reads it, and the running total of chunks per sequence."""

    table: Tensor
    ends: Tensor

    @classmethod
    def of(cls, token_ends: Tensor, output_ends: Tensor, device: torch.device) -> "_Chunks":
        token_ends, output_ends = token_ends.to(device), output_ends.to(device)
        lengths, outputs = token_ends.diff(), output_ends.diff()
        counts = (lengths + CHUNK - 1) // CHUNK
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)
        first, end = token_ends[sequence], token_ends[sequence + 1]
        begin = first + (torch.arange(len(sequence), device=device) - ends[sequence]) * CHUNK
        columns = [begin, (begin + CHUNK).minimum(end), first, end - outputs[sequence], output_ends[sequence]]
        return cls(torch.stack(columns, 1), ends)


class _FusedBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, parameters: Tensor, chunks: _Chunks, outputs: int, states: int, taps: int
    ) -> Tensor:
        sizes = {"K": taps, "S": states, "KP": triton.next_power_of_2(taps)}
        sizes |= {"SP": triton.next_power_of_2(states), "EP": triton.next_power_of_2(parameters.shape[1])}
        borders = _borders(tokens, parameters, chunks, tokens, sizes, reverse=False)
        result = tokens.new_empty(outputs)
        channels = parameters.shape[1]
        _output_kernel[(len(chunks.table),)](tokens, parameters, chunks.table, borders, result, channels, **sizes)
        ctx.chunks, ctx.sizes = chunks, sizes
        ctx.save_for_backward(tokens, parameters, borders)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        tokens, parameters, borders = ctx.saved_tensors
        chunks, sizes, grad_outputs = ctx.chunks, ctx.sizes, grad_outputs.contiguous()
        (rows, channels), count, taps = parameters.shape, len(chunks.table), sizes["K"]
        carries = _borders(tokens, parameters, chunks, grad_outputs, sizes, reverse=True)
        programs = min(count, PROGRAMS)
        history = tokens.new_empty(programs, CHUNK, channels, sizes["S"])
        windows = tokens.new_empty(len(tokens), taps)
        grads = tokens.new_empty(programs, rows, channels)
        _gradient_kernel[(programs,)](
            tokens, parameters, chunks.table, borders, carries, grad_outputs, history, windows, grads,
            channels, count, rows, **sizes, LENGTH=CHUNK,
        )  # fmt: skip
        grad_tokens = windows[:, -1].clone()
        for age in range(1, min(taps, len(tokens))):
            grad_tokens[:-age] += windows[age:, taps - 1 - age]
        return grad_tokens, grads.sum(0), None, None, None, None


def _borders(
    tokens: Tensor, parameters: Tensor, chunks: _Chunks, grad_outputs: Tensor, sizes: dict[str, int], *, reverse: bool
) -> Tensor:
    """The state before every chunk, or in reverse the gradient of the state behind it: [chunks, channels, states]."""
    channels, states, count = parameters.shape[1], sizes["S"], len(chunks.table)
    sequences = len(chunks.ends) - 1
    if sequences == count:  # each sequence is one chunk
        return tokens.new_zeros(count, channels, states)
    added = tokens.new_empty(count, channels, states)
    passed = tokens.new_empty(count, channels)
    _local_kernel[(count,)](
        tokens, parameters, chunks.table, grad_outputs, added, passed, channels, **sizes, REVERSE=reverse
    )
    grid = (sequences, triton.cdiv(channels * states, CARRIED))
    _carry_kernel[grid](
        chunks.ends, parameters, added, passed, channels, K=sizes["K"], S=states, SIZE=CARRIED, REVERSE=reverse
    )
    return added


def fused_block(
    tokens: Tensor, parameters: Tensor, token_ends: Tensor, output_ends: Tensor, states: int, taps: int
) -> Tensor:
    """See `fsg.training.scan.backends.fused_block`; float32 or float64 on a CUDA device."""
    chunks = _Chunks.of(token_ends, output_ends, tokens.device)
    tokens, parameters = tokens.contiguous(), parameters.contiguous()
    return _FusedBlock.apply(tokens, parameters, chunks, int(output_ends[-1]), states, taps)
