"""Short trainings in memory: what meta-training judges hypernetworks by."""

import math
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch

from fsg.training.compute import default_precision, set_up_machine
from fsg.training.config import Config
from fsg.training.data.augment import batches, with_augmentation
from fsg.training.data.feed import Feed, Normalizer
from fsg.training.data.load import load_dataset
from fsg.training.data.normalization import normalization
from fsg.training.data.sets import DataInfo, Dataset, class_weights, options_of, smaller
from fsg.training.distributed import Processes
from fsg.training.loop import epoch_randomness, learning_rate
from fsg.training.objective import Objective
from fsg.training.step import Learner


@dataclass(frozen=True)
class Task:
    """A training of so many steps; with the same settings, of which the seed is one, it ends alike."""

    config: Config
    steps: int

    @property
    def name(self) -> str:
        """Such as "resnet8 on digits, 1-bit activations, 126 steps"."""
        dataset = self.config.dataset.rpartition("/")[2]
        return f"{self.config.model} on {dataset}, {self.config.activation_bits}-bit activations, {self.steps} steps"


def fitness(losses: list[float]) -> float:
    """How a course of losses is judged, less is better: mean of its last fifth, and half of that of its middle third.

    The end alone would leave out who learns faster; infinite where the training went astray.
    """
    count = len(losses)
    middle, end = losses[count // 3 : -(-2 * count // 3)], losses[count * 4 // 5 :]
    value = float(np.mean(end) + 0.5 * np.mean(middle))
    return value if math.isfinite(value) else math.inf


class ShortTrainer:
    """Runs tasks one after another in this process; reads data sets once."""

    def __init__(self) -> None:
        self._data: dict[tuple[object, ...], Dataset] = {}

    def __call__(self, task: Task) -> list[float]:
        """The training loss (nats) of every step. lr follows the schedule, over `task.steps` instead of whole epochs.

        Errors: those of a training; FsgError where there are fewer images than a batch.
        """
        config, alone = replace(task.config, epochs=1, warmup_epochs=0.0), Processes()
        device = set_up_machine(config)
        with default_precision(config.precision) as dtype:
            data = self._read(config)
            info = DataInfo(data.class_names, *normalization(config, data), data.shape)
            learner = Learner(config, info, device, alone, init=config.init)
            learner.objective = Objective(config, class_weights=class_weights(config, data))
            learner.model.train()
            learner.rule.steps = task.steps
            feed = Feed(data, Normalizer(info, device, dtype, learner.memory_format), alone)
            losses: list[torch.Tensor] = []
            for epoch in count():
                rng = epoch_randomness(config.seed, epoch)
                for index in batches(len(data.x_train), config.batch_size, rng, drop_last=True):
                    if len(losses) == task.steps:
                        return [float(loss) for loss in torch.stack(losses)]
                    learner.rule.lr = learning_rate(config, len(losses), task.steps)
                    learner.rule.progress = len(losses) / task.steps
                    losses.append(learner.step(*feed(index, rng))[0])
        raise AssertionError

    def _read(self, config: Config) -> Dataset:
        key = (config.dataset, config.data_dir, config.train_images, options_of(config))
        if key not in self._data:
            data = load_dataset(config.dataset, data_dir=config.data_dir or None, options=options_of(config))
            self._data[key] = smaller(data, config.train_images)
        return with_augmentation(self._data[key], augment=config.augment, crop=config.crop, flip=config.flip)
