"""Whole models side by side: the delegate against LCE's interpreter, XNNPACK and ONNX Runtime.

python tests/benchmarks/models.py [--threads 1,2] [--rounds N] [NAME ...]

NAME is a network of Larq Zoo or resnet20, our own. Every contestant has a process of its own for each number of threads
and all take turns, round by round, so that what slows the machine for a while slows them all. Printed are medians with
quartiles in milliseconds, how many times as long as the fused delegate the others take on as many threads, and how many
times as fast a contestant is as on the first number of threads: medians of the ratios of the rounds.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import oracle  # noqa: E402

from fsg.runtime.library import delegate_path  # noqa: E402
from fsg.runtime.machine import environment  # noqa: E402

OURS = "resnet20"
NAMES = ("QuickNetSmall", "QuickNet", "QuickNetLarge", "BiRealNet", "RealToBinaryNet", OURS)
FIRST = "fsg"


@dataclass(frozen=True)
class Contestant:
    runtime: str  # as model_worker.py names it
    suffix: str = ".tflite"

    @property
    def label(self) -> str:
        kind = self.suffix.split(".")[1]
        return self.runtime if kind == "tflite" else f"{self.runtime} {kind}"


CONTESTANTS = (
    Contestant(FIRST),
    Contestant("fsg-unfused"),
    Contestant("lce"),
    Contestant("lce-xnnpack"),
    Contestant("xnnpack", ".float.tflite"),
    Contestant("xnnpack", ".int8.tflite"),
    Contestant("onnxruntime", ".float.onnx"),
)


class Worker:
    """A contestant's process."""

    def __init__(self, contestant: Contestant, model: Path, threads: int) -> None:
        python = oracle.python() if contestant.runtime.startswith("lce") else sys.executable
        command = [str(python), str(HERE / "model_worker.py"), contestant.runtime, str(model), str(threads)]
        self.process = subprocess.Popen(
            [*command, delegate_path()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.read()  # it is ready
        self.count = 1
        self.count = max(1, int(0.05 / self.seconds()))  # a turn of 50 ms or one inference

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"models.py: this one does not run: {' '.join(map(str, self.process.args))}")
        return line

    def seconds(self) -> float:
        """Of one inference, in a turn of `count`."""
        assert self.process.stdin is not None
        print(self.count, file=self.process.stdin, flush=True)
        return float(self.read()) / self.count

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def models(names: list[str]) -> Path:
    """The folder with the models and their twins, made where they are missing."""
    folder = oracle.zoo_folder()
    zoo = [name for name in names if name != OURS and not (folder / f"{name}.float.onnx").exists()]
    if zoo and oracle.python() is not None:
        oracle.program("zoo.py", folder, "--twins", *zoo)
    if OURS in names and not (folder / f"{OURS}.int8.tflite").exists():
        subprocess.run([sys.executable, HERE / "resnet20.py", folder], check=True)
    return folder


def start(folder: Path, name: str, threads: int) -> dict[str, Worker]:
    """Every contestant that has a model and a runtime here, by label."""
    workers = {}
    for contestant in CONTESTANTS:
        model = folder / f"{name}{contestant.suffix}"
        if model.exists() and (oracle.python() or not contestant.runtime.startswith("lce")):
            workers[contestant.label] = Worker(contestant, model, threads)
    return workers


def measure(folder: Path, name: str, counts: list[int], rounds: int) -> dict[tuple[int, str], np.ndarray]:
    """Milliseconds of every contestant by number of threads and label, a value a round."""
    workers = {(count, label): worker for count in counts for label, worker in start(folder, name, count).items()}
    times = {key: np.empty(rounds) for key in workers}
    for i in range(rounds):
        for key, worker in workers.items():
            times[key][i] = worker.seconds() * 1e3
    for worker in workers.values():
        worker.stop()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="thread counts, separated by commas (1,2)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.threads.split(",")]
    folder = models(list(arguments.names))
    facts = environment()
    print(f"{facts['cpu']}, {facts['cores']} cores, kernels {facts['kernels']}; {arguments.rounds} rounds")
    print(f"{'network':16}{'runtime':20}{'threads':>8}{'median ms':>10}{'quartiles':>20}{'x fsg':>8}{'speed-up':>9}")
    for name in arguments.names:
        times = measure(folder, name, counts, arguments.rounds)
        for (threads, label), values in times.items():
            low, median, high = np.percentile(values, [25, 50, 75])
            ratio, speedup = np.median(values / times[threads, FIRST]), np.median(times[counts[0], label] / values)
            quartiles = f"{low:.2f} .. {high:.2f}"
            print(f"{name:16}{label:20}{threads:8}{median:10.2f}{quartiles:>20}{ratio:8.2f}{speedup:9.2f}", flush=True)


if __name__ == "__main__":
    main()
