"""How and where the network is computed: device and threads, precision, compilation."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.config import Config


def use_precision(precision: str) -> torch.dtype:
    """Networks, rules and tensors made from now on are float64 if `precision` is, else float32; gives that type."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    torch.set_default_dtype(dtype)
    return dtype


@contextmanager
def default_precision(precision: str) -> Iterator[torch.dtype]:
    """`use_precision` for as long as it is entered."""
    before = torch.get_default_dtype()
    try:
        yield use_precision(precision)
    finally:
        torch.set_default_dtype(before)


def forward_function(
    model: nn.Module, device: torch.device, *, precision: str, compile: bool
) -> Callable[[Tensor], Tensor]:
    """The model's forward pass for training: images -> logits in torch's default type.

    With "bf16", convolutions and products are computed in bfloat16 (automatic mixed precision) while parameters,
    running statistics and the loss stay float32. Errors: FsgError where compiling is not possible.
    """
    forward = compiled(model, device) if compile else model

    def run(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(images)
        return logits.to(torch.get_default_dtype())

    return run


def compiled(model: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A compiled forward pass beside the model, which stays as it is.

    Weights lent for a look-ahead are inputs of the compiled code, so new ones in every step do not compile it anew.
    Errors: FsgError at once where there is no C++ compiler for a CPU, at the first call for what else fails.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not shutil.which(compiler):
        raise FsgError(f"--compile needs a C++ compiler and there is no {compiler}: install g++, or leave it away")
    from torch._dynamo.exc import TorchDynamoException

    forward = torch.compile(model)

    def run(images: Tensor) -> Tensor:
        try:
            return forward(images)
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            raise FsgError(f"--compile failed ({reason}): leave it away, or see more with --debug") from error

    return run


def set_up_machine(config: Config) -> torch.device:
    """Sets the number of threads and how strict PyTorch is about repeatable algorithms; returns the device."""
    device = pick_device(config.device)
    threads = 1 if config.deterministic and device.type == "cpu" else config.threads
    if threads:
        torch.set_num_threads(threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what PyTorch asks for on CUDA
    torch.use_deterministic_algorithms(config.deterministic)
    return device


def threads_told(config: Config) -> str:
    """What people should know of the number of threads that they asked for; nothing where it is fine."""
    cores = len(os.sched_getaffinity(0))
    if config.threads <= cores or config.deterministic:
        return ""
    return f"{config.threads} threads on {cores} cores are slower than {cores}: --threads {cores}"


def pick_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here. Errors: FsgError where there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise FsgError("device cuda: PyTorch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
