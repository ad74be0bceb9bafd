"""What a machine with one NVIDIA GPU makes of fsg: make gpu-check, which needs its PyTorch and no installation.

Each step is a process of its own with a share of the minutes, so that one that fails or hangs costs the others nothing.
Every result becomes a line of FOLDER/results.jsonl as soon as it is known; trainings that stand there are not repeated.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_steps import SHAPE, Step, in_turns, profiled, recorded, synchronisations, take_steps, told

if TYPE_CHECKING:
    from fsg.training.config import Config
    from fsg.training.experiments.short import ShortTrainer, Task
    from fsg.training.step import Learner

TOLERANCE = 1e-6  # relative, of losses in float64 on two devices
SCAN_TOLERANCES = {"float32": 1e-3, "float64": 1e-10}  # as in tests/training/scan
COMPARED = ("ste", "fsg:none", "fsg")
JOBS = 4  # trainings at a time, of which each needs a core to keep the GPU busy


@dataclass(frozen=True)
class Check:
    """One step under way, to be over at `end`; `quick` is for trying the program out."""

    step: str
    device: str
    out: Path
    data: str
    quick: bool
    end: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    @property
    def jobs(self) -> int:
        return min(JOBS, len(os.sched_getaffinity(0))) if self.device == "cuda" else 1

    def write(self, **values: Any) -> None:
        """Writes down one result."""
        line = json.dumps({"step": self.step, **values})
        with open(self.out / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def config(self, label: str, **settings: Any) -> "Config":
        """Of "ste", "metaquant", "fsg" with what comes with fsg, "fsg:none" or "fsg:FILE"."""
        from fsg.training.config import Config

        method, _, more = label.partition(":")
        common = {"model": "resnet8" if self.quick else "resnet20", "activation_bits": 1, "device": self.device}
        common |= {"batch_size": 8} if self.quick else {}
        return Config(method=method, hypernetwork=more, **{**common, **settings})

    def learner(self, config: "Config", device: str) -> "Learner":
        import torch

        from fsg.training.data.sets import DataInfo
        from fsg.training.distributed import Processes
        from fsg.training.step import Learner

        info = DataInfo(tuple(map(str, range(10))), (0.5,) * 3, (0.25,) * 3, SHAPE)
        learner = Learner(config, info, torch.device(device), Processes())
        learner.model.train()
        return learner


def write_hypernetwork(folder: str) -> str:
    """The file of a hypernetwork with all outputs, each of which depends on the past."""
    from fsg.training.methods.hyperfile import OUTPUTS, Hypernetwork, save_hypernetwork

    path = Path(folder) / "all.json"
    save_hypernetwork(Hypernetwork.of({name: {"constant": 0.2, "cosine@0.9": 0.1} for name in OUTPUTS}), path)
    return str(path)


def machine(check: Check) -> None:
    import torch

    from fsg.runtime.machine import cpu_name

    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "cpu": cpu_name(), "cores": os.cpu_count()}
    if check.device != "cuda":
        check.write(**found)
        return
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    check.write(**found, gpu=name, capability=capability, cudnn=torch.backends.cudnn.version())
    import triton

    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    told_driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    check.write(triton=triton.__version__, driver=told_driver)


def scan(check: Check) -> None:
    """The Mamba block of fsg's reference variant, here and in its own tests, against the plain one."""
    import torch

    from fsg.training.methods.hypernet import MambaBlock
    from fsg.training.scan.backends import choose_backend

    torch.backends.cudnn.allow_tf32 = False  # the plain one's convolution is to be as precise as it can
    wrong = []
    shapes = [(5, 3, 4, [33, 1, 70]), (9, 4, 4, [6] * 50), (100, 16, 8, [2000, 300]), (100, 16, 8, [5] * 300)]
    for channels, states, taps, lengths in shapes[: 2 if check.quick else None]:
        for dtype in (torch.float32, torch.float64):
            torch.manual_seed(0)
            mamba = MambaBlock(channels, states, taps).to(check.device, dtype)
            tokens = [torch.randn(n, device=check.device, dtype=dtype, requires_grad=True) for n in lengths]
            found = {}
            for backend in ("plain", "auto"):
                outputs = torch.cat(mamba.sequences(tokens, [min(n, 30) for n in lengths], backend=backend))
                gradients = torch.autograd.grad(outputs.square().sum(), [*mamba.parameters(), *tokens])
                found[backend] = [outputs.detach(), *gradients]
            errors = [
                float((a - b).abs().max() / (b.abs().max() + 1e-9))
                for a, b in zip(*reversed(found.values()), strict=True)
            ]
            kind = str(dtype).removeprefix("torch.")
            check.write(
                backend=choose_backend(tokens[0]),
                dtype=kind,
                shape={"channels": channels, "states": states, "taps": taps, "tokens": sum(lengths)},
                forward_error=errors[0],
                gradient_error=max(errors[1:]),
            )
            wrong += [f"{kind} {max(errors):.1e}"] if not max(errors) <= SCAN_TOLERANCES[kind] else []
    if check.device == "cuda":
        tests = Path(__file__).parents[1] / "training" / "scan" / "test_scan.py"
        options = ["-q", "-p", "no:cacheprovider", "--noconftest", "-k", "triton or on_cuda"]
        result = subprocess.run([sys.executable, "-m", "pytest", *options, tests], capture_output=True, text=True)
        last = (result.stdout.strip() or result.stderr.strip()).splitlines()[-1]
        check.write(tests=last)
        wrong += [last] if result.returncode else []
    if wrong:
        raise RuntimeError(f"the scan differs from the plain one: {', '.join(wrong)}")


def agreement(check: Check) -> None:
    """Five steps on the device and on the CPU, in float64."""
    from fsg.training.compute import default_precision

    wrong = []
    with tempfile.TemporaryDirectory() as folder, default_precision("float64"):
        for name, label in labelled(write_hypernetwork(folder)).items():
            config = check.config(label, precision="float64", batch_size=4 if check.quick else 32)
            losses = {}
            for device in (check.device, "cpu"):
                step = take_steps(check.learner(config, device), config.batch_size, device)
                losses[device] = [float(step()) for _ in range(5)]
            error = max(abs(a / b - 1) for a, b in zip(losses[check.device], losses["cpu"], strict=True))
            check.write(method=name, losses=losses[check.device], relative_error=error)
            wrong += [f"{name} {error:.1e}"] if not error <= TOLERANCE else []
    if wrong:
        raise RuntimeError(f"losses differ from those on the CPU: {', '.join(wrong)}")


def labelled(hypernetwork: str) -> dict[str, str]:
    """The methods by the names that results have; STE, to which times are compared, first."""
    return {"ste": "ste", "fsg:none": "fsg:none", "fsg:all": f"fsg:{hypernetwork}", "metaquant": "metaquant"}


def step_times(check: Check) -> None:
    """Steps as they are trained, without augmentation."""
    time_methods(check, "eager", 128, share=0.5)
    time_methods(check, "eager", 512, looked_into=check.device == "cuda")


def graphs(check: Check) -> None:
    """Whole steps as CUDA graphs: right in what they cost, not in what they learn.

    Learning rate, step count and, of methods that keep it, the gradient before are those of the recording.
    """
    if check.device != "cuda":
        check.write(skipped="needs a CUDA device")
        return
    time_methods(check, "graph", 128, share=0.5)
    time_methods(check, "graph", 512)


def compiled(check: Check) -> None:
    if check.quick:
        check.write(skipped="takes too long to try out")
        return
    time_methods(check, "compiled", 128, compile=True)


def time_methods(
    check: Check, mode: str, batch: int, *, share: float = 1.0, looked_into: bool = False, **settings: Any
) -> None:
    """Times as many methods as can be prepared in this share of the time that is left; in bf16."""
    from fsg.training.experiments.bench_step import quartiles

    described = {"mode": mode, "batch": 4 if check.quick else batch}
    end, worst = time.monotonic() + share * check.left, 0.0
    steps: dict[str, Step] = {}
    failed = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, label in labelled(write_hypernetwork(folder)).items():
            started = time.monotonic()
            if started + worst > end:
                break
            try:
                config = check.config(label, batch_size=described["batch"], precision="bf16", **settings)
                learner = check.learner(config, check.device)
                step = take_steps(learner, config.batch_size, check.device)
                for _ in range(2 if check.quick else config.history + 3):
                    loss = float(step())
                steps[name] = recorded(learner, step) if mode == "graph" else step
                worst = max(worst, time.monotonic() - started)
                check.write(**described, method=name, loss=loss, preparation_s=time.monotonic() - started)
            except Exception as error:  # of this method; the others can still be timed
                failed[name] = told(error)
    times = in_turns(steps, end, device=check.device, **({"rounds": 2, "each": 1} if check.quick else {}))
    for name, seconds in times.items():
        ratios = [mine / other for mine, other in zip(seconds, times["ste"], strict=True)] if "ste" in times else [0.0]
        result = {"ms_per_step": quartiles([1e3 * s for s in seconds]), "ratio_to_ste": quartiles(ratios)}
        check.write(**described, method=name, **result, rounds=len(seconds))
    for name, step in steps.items() if looked_into else ():
        check.write(**described, method=name, synchronised_at=synchronisations(step), **profiled(step))
    if failed:
        raise RuntimeError("; ".join(f"{name}: {words}" for name, words in failed.items()))


def meta(check: Check) -> None:
    """A short `fsg meta-train`."""
    from rich.console import Console

    from fsg.training.experiments.meta import Plan, meta_train

    steps, sizes = ((3,), {"pairs": 1, "checks": 1}) if check.quick else ((126,), {"pairs": 4, "checks": 4})
    common = check.config("fsg", threads=1)
    plan = Plan(common, (check.data,), (common.model,), (1,), steps, generations=1 if check.quick else 3, **sizes)
    start = time.monotonic()
    change = meta_train(plan, check.out / "meta", Console(stderr=True), jobs=check.jobs, made={"command": "gpu-check"})
    told_change = {"change_of_fitness": change.mean, "checks": change.count}
    check.write(seconds=time.monotonic() - start, jobs=check.jobs, generations=plan.generations, **told_change)


def trainings(check: Check) -> None:
    """Methods compared on whole short trainings, as many as there is time for."""
    from fsg.training.experiments.short import Task, fitness

    known = {tuple(found) for found in (r.get("training") for r in read_results(check)) if found}
    todo = wanted(check, known)
    running: dict[Future[tuple[list[float], float]], tuple[str, int, int, str]] = {}
    seconds_per_step = 0.0  # of the training that ended last
    with ProcessPoolExecutor(check.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        while True:
            for case in todo:
                method, steps, seed, data = case
                if seconds_per_step * steps < check.left:
                    config = check.config(method, dataset=data, seed=seed, threads=1)
                    running[pool.submit(trained, Task(config, steps))] = case
                elif steps == lengths(check)[0]:
                    todo = iter(())  # not even that: it is over
                if len(running) == check.jobs:
                    break
            if not running:
                break
            done, _ = wait(running, timeout=max(check.left, 0), return_when=FIRST_COMPLETED)
            if not done:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.terminate()
                break
            for future in done:
                case, (losses, seconds) = running.pop(future), future.result()
                seconds_per_step = seconds / len(losses)
                result = {"fitness": fitness(losses), "last_fifth": statistics.mean(losses[len(losses) * 4 // 5 :])}
                check.write(training=case, **result, seconds=seconds, jobs=check.jobs)


def lengths(check: Check) -> tuple[int, int]:
    """Steps of the trainings that are compared."""
    return (2, 3) if check.quick else (252, 2520)


def wanted(check: Check, known: set[tuple[Any, ...]]) -> Iterator[tuple[str, int, int, str]]:
    """Method, steps, seed and data of what is to be trained, in this order."""
    for seed in range(100, 101) if check.quick else count(100):
        for steps in lengths(check):
            for method in COMPARED:
                if (method, steps, seed, check.data) not in known:
                    yield method, steps, seed, check.data


def read_results(check: Check) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (check.out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


_trainers: list["ShortTrainer"] = []  # of a worker process


def trained(task: "Task") -> tuple[list[float], float]:
    """The losses and the seconds of a training, in a worker process, after one step that reads the data."""
    from fsg.training.experiments.short import ShortTrainer

    if not _trainers:
        _trainers.append(ShortTrainer())
        _trainers[0](replace(task, steps=1))
    start = time.monotonic()
    return _trainers[0](task), time.monotonic() - start


STEPS: dict[str, tuple[Callable[[Check], None], int]] = {
    "machine": (machine, 40),
    "scan": (scan, 50),
    "agreement": (agreement, 40),
    "step times": (step_times, 45),
    "graphs": (graphs, 30),
    "compiled": (compiled, 80),
    "meta": (meta, 40),
    "trainings": (trainings, 100),
}
"""In this order, with their shares of the time."""


def run_step(check: Check, arguments: list[str]) -> bool:
    """Runs a step in a process of its own; whether it ended well."""
    start, seconds = time.monotonic(), max(check.left, 1)
    command = [sys.executable, __file__, *arguments, "--step", check.step, "--minutes", str(0.95 * seconds / 60)]
    with tempfile.TemporaryFile("w+") as errors:  # not a pipe, which may fill up
        process = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            code = process.wait(seconds)
            errors.seek(0)
            words = errors.read().strip().splitlines() or [f"exit code {code}"]
            failed = words[-1] if code else ""
            if failed:
                print(*words[-20:], sep="\n", flush=True)
        except subprocess.TimeoutExpired:
            failed = f"was stopped after its {seconds:.0f} s"
        finally:
            stop_group(process)
    took = round(time.monotonic() - start, 1)
    check.write(**({"failed": failed} if failed else {"passed": True}), step_seconds=took)
    return not failed


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a step's process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=6, help="for all of it")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"), metavar="FOLDER")
    parser.add_argument("--data", default="digits", metavar="SPEC", help="what is trained on: digits, npz:PATH, ...")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the program out")
    parser.add_argument("--step", choices=STEPS, help="only this one, in this process")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.jsonl").touch()
    end = time.monotonic() + 60 * given.minutes
    common = {"device": given.device, "out": given.out, "data": given.data, "quick": given.quick}
    if given.step:
        STEPS[given.step][0](Check(given.step, end=end, **common))
        return 0
    arguments = ["--device", given.device, "--out", str(given.out), "--data", given.data]
    arguments += ["--quick"] if given.quick else []
    failed, shares = [], {name: share for name, (_, share) in STEPS.items()}
    for name in STEPS:
        now = time.monotonic()
        part = (end - now) * shares[name] / sum(shares.values())
        del shares[name]
        if not run_step(Check(name, end=now + part, **common), arguments):
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all steps passed", f"- {given.out / 'results.jsonl'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
