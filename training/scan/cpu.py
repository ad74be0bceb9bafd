"""The fused Mamba block on CPUs: native/ through ctypes, with its gradients."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsg import FsgError

LIBRARY = Path(__file__).with_name("libfsg_training.so")
CHUNK = 64  # tokens between two stored states: kChunk of native/scan.h
ITEM = 16384  # tokens that are worth a task for a thread; results do not depend on how many threads there are
REACH = {torch.float32: 40.0, torch.float64: 90.0}
"""What has decayed by exp(-REACH) is left out: 4e-18 and 8e-40, where rounding is 6e-8 and 1e-16."""


class _Scan(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("is_double", "channels", "states", "taps")),
        ("reach", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in ("parameters", "tokens", "token_ends", "output_ends", "starts", "outputs", "grad_outputs")
        ),
        ("grad_tokens", ctypes.c_void_p),
    ]


class _Item(ctypes.Structure):
    _fields_ = [
        ("first", ctypes.c_int64),
        ("end", ctypes.c_int64),
        ("borders", ctypes.c_void_p),
        ("grad_parameters", ctypes.c_void_p),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    for function in (library.fsg_scan_forward, library.fsg_scan_backward):
        function.argtypes = [ctypes.c_char_p, ctypes.POINTER(_Scan), ctypes.POINTER(_Item)]
    return library


def is_available() -> bool:
    """Whether the library was built for this machine."""
    return _library() is not None


@dataclass
class _Call:
    """One batch of sequences: token and output boundaries, states and taps of the block, and how to compute it."""

    token_ends: Tensor  # [sequences + 1], int64, from 0
    output_ends: Tensor
    states: int
    taps: int
    instructions: str
    skip: bool
    starts: Tensor

    def scan(self, tokens: Tensor, parameters: Tensor, **pointers: Tensor | None) -> _Scan:
        tensors = {
            "parameters": parameters,
            "tokens": tokens,
            "token_ends": self.token_ends,
            "output_ends": self.output_ends,
            "starts": self.starts,
            **pointers,
        }
        return _Scan(
            is_double=tokens.dtype == torch.float64,
            channels=parameters.shape[1],
            states=self.states,
            taps=self.taps,
            reach=REACH[tokens.dtype] if self.skip else float("inf"),
            **{name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()},
        )

    def items(self) -> list[tuple[int, int]]:
        """Runs of consecutive sequences with about ITEM tokens or more."""
        marks = torch.arange(ITEM, int(self.token_ends[-1]) + ITEM, ITEM).clamp(max=int(self.token_ends[-1]))
        ends = torch.searchsorted(self.token_ends, marks).unique().tolist()
        return list(zip([0, *ends], ends, strict=False))

    def chunks(self, items: list[tuple[int, int]]) -> list[int]:
        """How many chunks each item has at most."""
        bounds = self.token_ends[torch.tensor(items)]
        return (-(-(bounds[:, 1] - bounds[:, 0]) // CHUNK)).tolist()

    def run(self, function: Callable[..., int], scan: _Scan, items: list[_Item]) -> None:
        """Computes the items on PyTorch's number of threads, those with most tokens first."""

        def run_one(item: _Item) -> int:
            return function(self.instructions.encode(), ctypes.byref(scan), ctypes.byref(item))

        longest_first = sorted(items, key=lambda item: int(self.token_ends[item.first] - self.token_ends[item.end]))
        threads = min(torch.get_num_threads(), len(items))
        if threads == 1:
            results = list(map(run_one, longest_first))
        else:
            with ThreadPoolExecutor(threads) as pool:
                results = list(pool.map(run_one, longest_first))
        if 1 in results:
            raise FsgError(f"this processor has no {self.instructions} instructions: choose auto")
        if any(results):
            raise MemoryError("the fused scan ran out of memory")


def _pad(parameters: Tensor, states: int) -> Tensor:
    """Fills the last vector with channels that do nothing and forget everything."""
    count, lanes = parameters.shape[1], 64 // parameters.element_size()
    padded = torch.nn.functional.pad(parameters, (0, -count % lanes))
    padded[-2 - states : -2, count:] = -1e3  # A
    return padded


class _FusedBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, parameters: Tensor, call: _Call, keep: bool) -> Tensor:
        library = _library()
        assert library is not None
        ctx.channels = parameters.shape[1]
        parameters = _pad(parameters, call.states)
        items, row = call.items(), call.states * parameters.shape[1]
        chunks = call.chunks(items)
        # Only the pages that are written take memory, so tokens that are skipped cost none.
        borders = tokens.new_empty(sum(chunks) if keep else 0, row)
        parts = borders.split(chunks) if keep else [None] * len(items)
        outputs = tokens.new_empty(int(call.output_ends[-1]))
        tasks = [
            _Item(first, end, None if part is None else part.data_ptr(), None)
            for (first, end), part in zip(items, parts, strict=True)
        ]
        call.run(library.fsg_scan_forward, call.scan(tokens, parameters, outputs=outputs), tasks)
        ctx.call, ctx.borders, ctx.parameters = call, borders, parameters
        ctx.save_for_backward(tokens)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        library, call = _library(), ctx.call
        assert library is not None
        (tokens,), parameters = ctx.saved_tensors, ctx.parameters
        items = call.items()
        parts = ctx.borders.split(call.chunks(items))
        grad_tokens = torch.zeros_like(tokens) if ctx.needs_input_grad[0] else None
        grads = parameters.new_zeros(len(items), *parameters.shape)
        tasks = [
            _Item(first, end, part.data_ptr(), grad.data_ptr())
            for (first, end), part, grad in zip(items, parts, grads, strict=True)
        ]
        grad_outputs = grad_outputs.contiguous()
        scan = call.scan(tokens, parameters, grad_outputs=grad_outputs, grad_tokens=grad_tokens)
        call.run(library.fsg_scan_backward, scan, tasks)
        return grad_tokens, grads.sum(0)[:, : ctx.channels], None, None


def fused_block(
    tokens: Tensor,
    parameters: Tensor,
    token_ends: Tensor,
    output_ends: Tensor,
    states: int,
    taps: int,
    *,
    instructions: str = "auto",
    skip: bool = True,
) -> Tensor:
    """See `fsg.training.scan.backends.fused_block`; float32 or float64 on the CPU.

    `instructions` names the set to use (portable, avx2, avx512). With `skip`, tokens whose every influence on the
    wanted outputs has decayed by exp(-REACH) are not visited, and get gradient 0.

    Results do not depend on the number of threads. A value that is not finite may spoil other sequences. Errors:
    FsgError for instructions that this processor lacks.
    """
    tokens = tokens.contiguous()
    starts = torch.empty(len(token_ends) - 1, dtype=torch.int64)
    call = _Call(token_ends, output_ends, states, taps, instructions, skip, starts)
    keep = torch.is_grad_enabled() and (tokens.requires_grad or parameters.requires_grad)
    return _FusedBlock.apply(tokens, parameters, call, keep)
