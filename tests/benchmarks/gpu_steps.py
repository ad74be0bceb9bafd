"""Training steps to be timed, recorded and looked into by gpu_check.py."""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from fsg.training.step import Learner

SHAPE = (3, 32, 32)  # of the synthetic images
Step = Callable[[], "torch.Tensor"]
"""Takes a training step and gives its loss."""


def take_steps(learner: "Learner", batch: int, device: str) -> Step:
    """A function that takes a step on always the same synthetic images and gives its loss."""
    import torch

    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, *SHAPE, generator=generator).to(device, memory_format=learner.memory_format)
    labels = torch.randint(10, (batch,), generator=generator).to(device)
    return lambda: learner.step(images, labels)[0]


def wait_for(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def in_turns(
    steps: Mapping[str, Step], end: float, *, device: str, rounds: int = 15, each: int = 10
) -> dict[str, list[float]]:
    """Seconds per step in each round, of `each` steps by every method; there are fewer rounds where time ends."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        if number and time.monotonic() > end:
            break
        for name, step in steps.items():
            wait_for(device)
            start = time.perf_counter()
            for _ in range(each):
                step()
            wait_for(device)
            times[name].append((time.perf_counter() - start) / each)
    return times


def recorded(learner: "Learner", step: Step) -> Step:
    """A function that replays a whole step, from the look-ahead to the update of all weights."""
    import torch

    rule: Any = learner.rule
    for optimizer in (rule.optimizer, getattr(rule, "meta_optimizer", rule.optimizer)):
        for group in optimizer.param_groups:
            group["capturable"] = True
        for state in optimizer.state.values():
            state["step"] = state["step"].to("cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    read = dict(vars(rule))  # what the recording reads must live on, also where the rule makes new tensors
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    graph.replay()
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss of a replayed step is {float(loss)}")

    def replay(kept: Any = (read, learner)) -> "torch.Tensor":
        graph.replay()
        return loss

    return replay


def synchronisations(step: Step) -> list[str]:
    """Where a step waits for the GPU."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step()
    torch.cuda.set_sync_debug_mode("default")
    places = {f"{Path(w.filename).name}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)}
    return sorted(places)


def profiled(step: Step) -> dict[str, Any]:
    """How many kernels a step has, and for how long they keep the GPU busy."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            step()
            torch.cuda.synchronize()
        events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        kernels = [event for event in events if not event.name.startswith("Optimizer.")]  # those are headings
    except Exception as error:  # without a profiler there are still times
        return {"not_profiled": told(error)}
    return {"kernels": len(kernels), "busy_ms": sum(event.time_range.elapsed_us() for event in kernels) / 1e3}


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
