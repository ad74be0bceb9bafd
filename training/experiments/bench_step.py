"""What a training step of each method costs: seconds and memory, measured in turns.

Every method has a process of its own, so that its peak memory is its own: `python -m
fsg.training.experiments.bench_step`, which
reads its settings and then the number of steps to time, a line each, and answers each with a line of JSON. The methods
take turns, a few steps each, so that whatever slows the machine down for a while hits all of them.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fsg import FsgError, python, within_memory
from fsg.runtime.tables import table, titled
from fsg.training.config import Config
from fsg.training.folder import REMEDY

if TYPE_CHECKING:
    import torch
    from rich.console import Group

CHILD = python("fsg.training.experiments.bench_step")
SHAPE = (3, 32, 32)  # of the synthetic images, that of CIFAR
CLASSES = 10
BATCHES = 4  # so many batches of synthetic images there are to draw from


@dataclass(frozen=True)
class StepCost:
    """What the steps of one method cost, in the order in which they were timed.

    rounds: seconds of each step, for each round. peak_rss_bytes: of the process, with Python and PyTorch in it;
    base_rss_bytes is what those two take. peak_cuda_bytes: of PyTorch's allocator, 0 on a CPU.
    native: whether the compiled slow net for CPUs is there; without it, PyTorch's operations do its work.
    """

    label: str
    rounds: list[list[float]]
    peak_rss_bytes: int
    base_rss_bytes: int
    peak_cuda_bytes: int
    hypernetwork_parameters: int
    threads: int
    device: str
    machine: str
    native: bool

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of all steps."""
        return quartiles([value for steps in self.rounds for value in steps])

    def ratio(self, first: "StepCost") -> tuple[float, float, float]:
        """Quartiles, over the rounds, of the median step against that of `first` in the same round."""
        pairs = zip(self.rounds, first.rounds, strict=True)
        return quartiles([statistics.median(mine) / statistics.median(other) for mine, other in pairs])


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile of at least one value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def measure_steps(
    entries: Mapping[str, Config],
    *,
    rounds: int = 10,
    steps: int = 3,
    show: Callable[[str], None] = lambda text: None,
) -> list[StepCost]:
    """Times `steps` training steps of every entry in each of so many rounds, after a warm-up.

    The warm-up fills FSG's history, so that all of it is worked on. `show` is told what is going on. Errors: FsgError
    where a method cannot be built or its process dies.
    """
    with ExitStack() as stack:
        workers = {}
        for label, config in entries.items():
            show(f"warming up {label}")
            workers[label] = stack.enter_context(_worker(label, config))
        times: dict[str, list[list[float]]] = {label: [] for label in entries}
        for number in range(1, rounds + 1):
            for label, worker in workers.items():
                show(f"round {number} of {rounds}: {label}")
                times[label].append(worker(steps))
        return [StepCost(label, times[label], **worker(0)) for label, worker in workers.items()]


@contextmanager
def _worker(label: str, config: Config) -> Iterator[Callable[[int], Any]]:
    """A process, warmed up, that times so many steps of one method when it is asked to, and sleeps in between."""
    with tempfile.TemporaryFile("w+") as errors:  # not a pipe, which may fill up
        # Threads that spin while they wait would slow down the method whose turn it is.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        process = subprocess.Popen(
            CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        )
        assert process.stdin and process.stdout
        questions, answers = process.stdin, process.stdout

        def ask(question: Any) -> Any:
            with suppress(BrokenPipeError):  # the last words of a dead process are read below
                questions.write(json.dumps(question) + "\n")
                questions.flush()
            answer = answers.readline()
            if not answer:
                code = process.wait()
                errors.seek(0)
                words = errors.read().strip().splitlines() or ["its process ended"]
                if code == -signal.SIGKILL:
                    words = ["its process was killed; if there was not enough memory, lower --batch-size"]
                raise FsgError(f"{label}: {words[-1]}")
            return json.loads(answer)

        try:
            ask(asdict(config))
            yield ask
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate()


def _serve() -> None:
    """The worker's side: settings, then numbers of steps; 0 asks for what was not seconds."""
    import torch

    from fsg.runtime.machine import cpu_name, peak_rss
    from fsg.training.compute import pick_device
    from fsg.training.scan.cpu import is_available

    base = peak_rss()
    config = Config(**json.loads(sys.stdin.readline()))
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    cuda = device.type == "cuda"
    take_step, hypernetwork_parameters = prepared_step(config, device)

    def timed_step() -> float:
        start = time.perf_counter()
        take_step()
        return time.perf_counter() - start

    for _ in range(config.history + 2):
        timed_step()
    answer: Any = "ready"
    while True:
        print(json.dumps(answer), flush=True)
        count = json.loads(sys.stdin.readline())
        answer = [timed_step() for _ in range(count)]
        if not count:
            answer = {
                "peak_rss_bytes": peak_rss(),
                "base_rss_bytes": base,
                "peak_cuda_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
                "hypernetwork_parameters": hypernetwork_parameters,
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name(device) if cuda else "cpu",
                "machine": cpu_name(),
                "native": is_available(),
            }


def prepared_step(config: Config, device: "torch.device") -> tuple[Callable[[], float], int]:
    """A function that takes the next training step, returning its loss, and the number of hypernetwork parameters.

    A step is what the training loop does for a batch, augmentation included, on random images with random labels, but
    without a teacher. The default precision of the process is set for good.
    """
    import numpy as np

    from fsg.training.compute import use_precision
    from fsg.training.data.augment import with_augmentation
    from fsg.training.data.feed import Feed, Normalizer
    from fsg.training.data.sets import DataInfo, Dataset
    from fsg.training.distributed import Processes
    from fsg.training.step import Learner

    names, mean, std = tuple(map(str, range(CLASSES))), (0.5,) * 3, (0.25,) * 3
    info = DataInfo(names, mean, std, SHAPE)
    dtype, alone = use_precision(config.precision), Processes()
    learner = Learner(config, info, device, alone)
    rng = np.random.default_rng(config.seed)
    images = rng.integers(0, 256, (BATCHES * config.batch_size, *SHAPE), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, len(images))
    data = Dataset("synthetic", images, labels, images[:0], labels[:0], names, mean, std, flip=True, pad=4)
    data = with_augmentation(data, augment=config.augment, crop=config.crop, flip=config.flip)
    learner.model.train()
    feed = Feed(data, Normalizer(info, device, dtype, learner.memory_format), alone)

    def take_step() -> float:
        loss, _ = learner.step(*feed(rng.integers(0, len(images), config.batch_size), rng))
        return loss.item()  # waits for a CUDA device

    return take_step, learner.rule.hypernetwork_parameters


def records(costs: list[StepCost], entries: Mapping[str, Config]) -> list[dict[str, Any]]:
    """The costs as plain records that describe themselves: settings, seconds and their quartiles, bytes."""
    return [
        {
            **asdict(cost),
            "seconds_per_step": dict(zip(("q25", "median", "q75"), cost.seconds, strict=True)),
            "ratio": dict(zip(("q25", "median", "q75"), cost.ratio(costs[0]), strict=True)),
            "images": {"kind": "synthetic", "shape": SHAPE},
            "settings": asdict(entries[cost.label]),
        }
        for cost in costs
    ]


def step_table(costs: list[StepCost], entries: Mapping[str, Config]) -> "Group":
    """One row per method, and what was measured on what."""
    cuda = any(cost.peak_cuda_bytes for cost in costs)
    first = costs[0]
    headings = ["method", "median s", "quartiles", "ratio", "quartiles", "peak MB"]
    headings += [*(["CUDA MB"] if cuda else []), "hyper"]
    rows = []
    for cost in costs:
        (low, median, high), (less, ratio, more) = cost.seconds, cost.ratio(first)
        memory = [cost.peak_rss_bytes, *([cost.peak_cuda_bytes] if cuda else [])]
        cells = [f"{median:.3g}", f"{low:.3g} to {high:.3g}", f"{ratio:.2f}", f"{less:.2f} to {more:.2f}"]
        cells += [*(f"{count / 1e6:.0f}" for count in memory), f"{cost.hypernetwork_parameters:,}"]
        rows.append([cost.label, *cells])
    where = first.machine if first.device == "cpu" else f"{first.device}, {first.machine}"
    config = entries[first.label]
    title = f"One training step of {config.model}, batch {config.batch_size}, {first.threads} threads, {where}"
    rounds = f"{len(first.rounds)} rounds of {len(first.rounds[0])} steps"
    lines = [
        f"synthetic images, {'x'.join(map(str, SHAPE))}; network and gradient rule are those of a training run",
        f"{rounds}, the methods in turns; ratio: to {first.label} in the same round",
        f"peak MB: resident memory of the process, {first.base_rss_bytes / 1e6:.0f} of them Python and PyTorch;"
        " hyper: hypernetwork parameters",
        "compare the seconds with others only if nothing else ran on the machine",
    ]
    if first.device == "cpu" and not first.native:
        lines.append("the native library was not built, so FSG's slow net is far slower than it can be: make setup")
    return titled(title, table(headings, rows, left=("method",), wrap=("method",)), lines)


def _main() -> int:
    try:
        with within_memory(REMEDY):
            _serve()
    except FsgError as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_main())
