"""Meta-training: the hypernetwork of FSG learnt over many whole short trainings.

meta.json            what is learnt on; the same command continues, another one is refused
trials.csv           one row per finished training, in the order in which they ended
hypernetwork.json    what has been learnt so far, for fsg train --hypernetwork
progress.png         how it does against its start on tasks that it does not learn on

Everything follows from the plan and the trials, so that a kill costs no more than the trainings under way.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from fsg import FsgError, make_folder, replacing
from fsg.runtime.model.files import read_object
from fsg.training.config import Config
from fsg.training.distributed import Processes, joined
from fsg.training.experiments.evolve import Descent, Values, perturbation
from fsg.training.experiments.plots import plot_progress
from fsg.training.experiments.results import Estimate
from fsg.training.experiments.short import Task
from fsg.training.experiments.trials import Book, Trial, Workers, relative
from fsg.training.folder import only_one
from fsg.training.launch import rank_and_count
from fsg.training.loop import progress
from fsg.training.methods.hyperfile import INPUTS, OUTPUTS, Hypernetwork, save_hypernetwork

LR_FACTORS = (0.7, 1.0, 1.4)  # of the learning rate that was set
LR_W1A32 = 0.5  # and with float activations, which want half of it
SCALES = {"constant": 1.0, "progress": 0.7, "length": 0.7, "depth": 0.7, "one_bit": 0.7}
OTHER_SCALE = 0.3
"""How far the search goes for each input: where more is expected. Fewer directions are found with fewer trainings."""
CHECK_SEED = 10**6  # seeds from here on are of tasks that nothing is learnt on


@dataclass(frozen=True)
class Plan:
    """What to learn on: tasks are drawn from all combinations of the lists, with the settings of `common`, whose
    initial weights are those of its `model` alone.

    A generation is so many `pairs` of trainings. Before every `check_every`-th one, and at the end, what has been
    learnt is compared with the start on `checks` other tasks. `start` are the weights to begin with.
    """

    common: Config
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    bits: tuple[int, ...]
    steps: tuple[int, ...]
    generations: int = 50
    pairs: int = 8
    sigma: float = 0.15
    rate: float = 0.03
    check_every: int = 10
    checks: int = 8
    start: Hypernetwork = field(default_factory=Hypernetwork)

    def written(self) -> dict[str, Any]:
        """As it stands in meta.json; for how long to learn is not part of it."""
        plan = {name: value for name, value in asdict(self).items() if name not in ("generations", "start")}
        return json.loads(json.dumps({**plan, "start": self.start.weights}))

    def task(self, trial: Trial, hypernetwork: Path, threads: int) -> Task:
        """What a trial trains: the same for both sides of a pair, and the same in all generations for a check."""
        check = trial.side in (0, -2)
        rng = np.random.default_rng([self.common.seed, CHECK_SEED if check else trial.generation, trial.number])
        cases = list(product(self.datasets, self.models, self.bits, self.steps))
        which = trial.number if check else int(rng.integers(len(cases)))  # checks have each case in turn
        dataset, model, bits, steps = cases[which % len(cases)]
        factor = LR_FACTORS[int(rng.integers(len(LR_FACTORS)))] * (LR_W1A32 if bits == 32 else 1)
        config = replace(
            self.common,
            dataset=dataset,
            model=model,
            activation_bits=bits,
            init=self.common.init if model == self.common.model else "",
            hypernetwork=str(hypernetwork),
            lr=self.common.lr * factor,
            seed=int(rng.integers(CHECK_SEED)) + CHECK_SEED * check,
            threads=threads,
        )
        return Task(config, steps)


class MetaTraining:
    """A plan as far as it has been carried out: the point that has been reached, and the checks on the way to it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.generation = 0
        self.descent = Descent((np.array(plan.start.weights) / _scales()).ravel(), plan.sigma, plan.rate)
        self.checks: list[tuple[int, Estimate]] = []

    @property
    def net(self) -> Hypernetwork:
        """What has been reached."""
        return _net(self.descent.point)

    def _perturbations(self) -> list[Values]:
        size, seed = self.descent.point.size, self.plan.common.seed
        return [perturbation(seed, self.generation, pair, size) for pair in range(self.plan.pairs)]

    def trials(self) -> dict[Trial, Hypernetwork]:
        """What is to be trained next: a check where one is due, and the pairs of a generation, if there is one more."""
        wanted: dict[Trial, Hypernetwork] = {}
        last = self.generation == self.plan.generations
        if last or self.generation % self.plan.check_every == 0:
            for number in range(self.plan.checks):
                wanted[Trial(0, number, -2)] = self.plan.start
                if self.generation:
                    wanted[Trial(self.generation, number, 0)] = self.net
        if not last:
            for pair, e in enumerate(self._perturbations()):
                plus, minus = self.descent.sides(e)
                wanted[Trial(self.generation, pair, 1)] = _net(plus)
                wanted[Trial(self.generation, pair, -1)] = _net(minus)
        return wanted

    def advance(self, known: dict[Trial, float]) -> bool:
        """Learns from the trials that were wanted; whether there are no more."""
        checks = range(self.plan.checks)
        if Trial(self.generation, 0, 0) in known:
            values = [[known[Trial(g, n, s)] for n in checks] for g, s in ((self.generation, 0), (0, -2))]
            self.checks.append((self.generation, Estimate.of(relative(*values) or [0.0])))
        if self.generation == self.plan.generations:
            return True
        sides = ([known[Trial(self.generation, p, side)] for p in range(self.plan.pairs)] for side in (1, -1))
        self.descent.learn(self._perturbations(), *sides)
        self.generation += 1
        return False


def _scales() -> Values:
    return np.array([SCALES.get(name, OTHER_SCALE) for name in INPUTS])


def _net(point: Values) -> Hypernetwork:
    rows = (point.reshape(len(OUTPUTS), len(INPUTS)) * _scales()).tolist()
    return Hypernetwork(tuple(map(tuple, rows)))


def meta_train(plan: Plan, folder: Path, console: Console, *, jobs: int, made: dict[str, Any]) -> Estimate:
    """Carries out a plan in `folder`, `jobs` trainings at a time, from where it stands; returns the last check.

    That is the mean relative change of the fitness against the start, negative where it has become better. The
    processes that torchrun started share the trainings; the first one writes. `made` goes into the hypernetwork's file.
    Errors: FsgError where a task cannot be trained, the folder holds another plan, and where another process is at work
    in it. KeyboardInterrupt passes.
    """
    threads = plan.common.threads or max(1, len(os.sched_getaffinity(0)) // jobs)
    work = MetaTraining(plan)
    with (
        joined(torch.device("cpu"), rank_and_count()[1]) as processes,
        _opened(plan, folder, processes) as book,
        Workers(jobs) as workers,
        tempfile.TemporaryDirectory() as room,
    ):
        while True:
            tasks = {}
            for number, (trial, net) in enumerate(work.trials().items()):
                path = Path(room) / f"{number}.json"
                save_hypernetwork(net, path)
                tasks[trial] = plan.task(trial, path, threads)
            _carry_out(tasks, book, workers, processes, console, f"generation {work.generation + 1}")
            checks = len(work.checks)
            ended = work.advance(book.known)
            if processes.first:
                made |= {"generations": work.generation, "trainings": len(book.known)}
                save_hypernetwork(replace(work.net, made=made), folder / "hypernetwork.json")
                if len(work.checks) > checks:
                    plot_progress(work.checks, folder / "progress.png")
                    console.print(_told(*work.checks[-1]), highlight=False, soft_wrap=True)
            if ended:
                return work.checks[-1][1]


@contextmanager
def _opened(plan: Plan, folder: Path, processes: Processes) -> Iterator[Book]:
    """The trials of a plan in its folder, which nobody else may work in meanwhile."""
    if not processes.first:
        yield Book(None)
        return
    make_folder(folder)
    path = folder / "meta.json"
    with only_one(folder, f"another fsg meta-train is at work in {folder}: wait for it, or choose another --out"):
        if path.exists():
            found = read_object(path)
            for name, value in plan.written().items():
                if found.get(name) != value:
                    raise FsgError(f"{folder} holds a meta-training with another {name}: choose another --out")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(plan.written(), indent=2) + "\n", encoding="utf-8")
        yield Book(folder / "trials.csv")


def _carry_out(
    tasks: dict[Trial, Task], book: Book, workers: Workers, processes: Processes, console: Console, text: str
) -> None:
    """Trains what is not in the book yet; afterwards every process's book has all of it."""
    trials = list(tasks)
    known = torch.tensor([float(processes.first and trial in book.known) for trial in trials])
    missing = [trial for trial, there in zip(trials, processes.total(known).tolist(), strict=True) if not there]
    mine = {trial: tasks[trial] for trial in missing[processes.rank :: processes.count]}
    for trial, value in progress(console, workers.run(mine), len(mine), text):
        book.add(trial, value, tasks[trial])
    own = [trial in mine or (processes.first and trial not in missing) for trial in trials]
    found = [book.known[trial] if is_own else 0.0 for trial, is_own in zip(trials, own, strict=True)]
    values = processes.total(torch.tensor(found, dtype=torch.float64)).tolist()
    for trial, value in zip(trials, values, strict=True):
        book.add(trial, value, tasks[trial])


def _told(generation: int, change: Estimate) -> str:
    return (
        f"after generation {generation}: fitness {change.text(2, 100, '+')} % against the start,"
        f" on {change.count} tasks that are not learnt on"
    )
