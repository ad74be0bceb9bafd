"""Training in several processes that torchrun started: `torchrun --nproc-per-node N -m fsg train ...`.

Every process draws the same random numbers for the whole batch and works on its own equal part of it. Batch norm takes
the statistics of the whole batch and gradients are averaged before a step, so that all processes take the same steps
as one would with the whole batch. The first one speaks and writes; of errors, the first to fail speaks.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fsg import FsgError
from fsg.training.launch import PATIENCE, rank_and_count, store

_terminated = threading.Event()


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together, seen from the one with this rank; alone, all is as without."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def part(self, size: int) -> slice:
        """This process's part of `size` things; all parts are equal where `count` divides `size`."""
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def total(self, values: Tensor) -> Tensor:
        """The sum of the processes' tensors, which have one shape, in place."""
        if self.count > 1:
            _reachable(lambda: dist.all_reduce(values))
        return values

    def average(self, tensors: list[Tensor]) -> None:
        """Replaces tensors of one type by their means over the processes, all of them in one exchange."""
        if self.count > 1 and tensors:
            flat = self.total(torch.cat([tensor.flatten() for tensor in tensors])) / self.count
            for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def equalize(self, state: Any) -> None:
        """Replaces every tensor in nested containers by that of the first process."""
        if self.count > 1 and isinstance(state, Tensor):
            dense = state.detach().contiguous()
            _reachable(lambda: dist.broadcast(dense, 0))
            state.detach().copy_(dense)
        elif self.count > 1 and isinstance(state, dict | list | tuple):
            for value in state.values() if isinstance(state, dict) else state:
                self.equalize(value)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process passes alone, then all others: for what finds a download or a cache done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Waits until every process has come here."""
        self.total(torch.zeros(()))


@contextmanager
def joined(device: torch.device, batch_size: int) -> Iterator[Processes]:
    """Joins the processes that torchrun started, if it did; they exchange by NCCL on CUDA devices, else by gloo.

    Errors: FsgError where the processes cannot share the batch or the machine's devices.
    """
    rank, count = rank_and_count()
    if count == 1:
        yield Processes()
        return
    if batch_size % count:
        raise FsgError(f"batch size {batch_size} cannot be shared by {count} processes: choose a multiple of {count}")
    if device.type == "cuda":
        local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= devices:
            raise FsgError(
                f"there are fewer CUDA devices ({devices}) than processes: choose --nproc-per-node {devices}"
            )
        torch.cuda.set_device(local)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", store()), rank=rank, world_size=count, timeout=PATIENCE
    )
    yield Processes(rank, count)
    dist.destroy_process_group()  # only after success: the others must not notice a failure before it is reported


def _reachable(exchange: Callable[[], Any]) -> None:
    """Carries out an exchange with the other processes. Errors: FsgError if one of them has ended."""
    if _terminated.is_set():
        raise FsgError("the training was terminated; its last checkpoint is kept")
    try:
        exchange()
    except RuntimeError as error:
        raise FsgError("another process of the training ended: see its message; the last checkpoint is kept") from error


def _terminate(*_: Any) -> None:
    """On SIGTERM, by which torchrun ends all processes when one has failed: the next exchange is an error."""
    _terminated.set()


def _interrupt(*_: Any) -> NoReturn:
    """On Ctrl-C, which torchrun repeats and follows by SIGTERM: once is enough, the rest is left to be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


class WholeBatchNorm(_BatchNorm):
    """Batch norm of any dimension with the statistics of the batch over all processes, in training.

    With mean m and variance v of the whole batch, y = (x - m) / sqrt(v + eps) * weight + bias; its gradient takes the
    dependence of m and v on every process's x into account (Ioffe & Szegedy 2015, arXiv 1502.03167).
    """

    processes: Processes

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape [N, C, ...] will do."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return _WholeBatchNorm.apply(input, self.weight, self.bias, self)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, size: int) -> None:
        """Moves the running statistics towards those of a batch with `size` values per channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * size / max(size - 1, 1), share)


class _WholeBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, module: WholeBatchNorm) -> Tensor:
        processes, dims = module.processes, [0, *range(2, x.dim())]
        exact = torch.promote_types(x.dtype, torch.float32)
        mean = processes.total(x.mean(dims, dtype=exact)) / processes.count
        deviation = x - mean.view(-1, *[1] * (x.dim() - 2))
        variance = processes.total(deviation.square_().mean(dims)) / processes.count
        module.track(mean, variance, x.numel() // x.shape[1] * processes.count)
        ctx.save_for_backward(x, torch.ones_like(mean) if weight is None else weight, mean, variance)
        ctx.module, ctx.affine = module, weight is not None
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=module.eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        processes, eps = ctx.module.processes, ctx.module.eps
        # With mean and variance held fixed; then their share, which is affine in x.
        fixed, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0], x, weight, mean, variance, None, None, False, eps, [True, True, True]
        )
        size = x.numel() // x.shape[1] * processes.count
        along, constant = processes.total(torch.stack([to_weight, to_bias])) / size
        deviation = torch.rsqrt(variance + eps)
        slope = -weight * deviation.square() * along
        offset = -weight * deviation * constant - slope * mean
        shape = (-1, *[1] * (x.dim() - 2))
        gradient = torch.addcmul(fixed + offset.view(shape), x, slope.view(shape)).to(x.dtype)
        return gradient, to_weight if ctx.affine else None, to_bias if ctx.affine else None, None


def use_whole_batch_norm(model: nn.Module, processes: Processes) -> None:
    """Makes every batch norm of a model one over all processes; parameters, buffers and their names stay."""
    if processes.count == 1:
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = WholeBatchNorm
            module.processes = processes  # type: ignore[assignment]
