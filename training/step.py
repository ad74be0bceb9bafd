"""One training step: what a run does for every batch, and what `fsg bench-train` times."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsg.training.compute import forward_function
from fsg.training.config import Config
from fsg.training.data.sets import DataInfo
from fsg.training.distributed import Processes, use_whole_batch_norm
from fsg.training.memory import counting, require_memory
from fsg.training.networks.average import AveragedModel
from fsg.training.networks.network import model_for
from fsg.training.networks.trace import quiet_failures
from fsg.training.networks.weights import load_initial_weights
from fsg.training.objective import Objective
from fsg.training.registry import make_rule


class Learner:
    """A network and all that teaches it: gradient rule, objective and, with `ema`, averaged weights.

    `init` names full-precision weights to start from. Random numbers follow from the run's seed. `objective` may be
    replaced by one with a teacher, and `steps` counts the steps taken. `memory_format` is that of
    images and weights, `notes` what had to be done to the file of initial weights.
    """

    def __init__(
        self, config: Config, data: DataInfo, device: torch.device, processes: Processes, *, init: str = ""
    ) -> None:
        torch.manual_seed(config.seed)
        self.processes = processes
        self.model = model_for(config, data)
        self.notes = load_initial_weights(self.model, Path(init)) if init else []
        with counting(self.model) as values:
            self.memory_format = to_device(self.model, device, data.shape)
        require_memory(config, self.model, sum(values.values()), config.batch_size // processes.count, device)
        use_whole_batch_norm(self.model, processes)
        self.network = forward_function(self.model, device, precision=config.precision, compile=config.compile)
        self.rule = make_rule(config, self.model)
        self.average = AveragedModel(self.model, config.ema) if config.ema else None
        self.objective = Objective(config)
        self.steps = 0

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Learns this process's part of a batch: images [B, C, H, W], labels [B]. Its loss, and logits [B, classes]."""
        with self.rule.lookahead():
            logits = self.network(images)
            loss = self.objective(images, logits, labels)
        loss.backward()
        self.processes.average(self.rule.gradients())
        self.rule.step()
        self.steps += 1
        if self.average:
            self.average.update(self.model, self.steps)
        return loss.detach(), logits.detach()

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and exported."""
        return self.average.model if self.average else self.model

    def equalize(self) -> None:
        """Gives every process the first one's state: devices may round differently."""
        for part in (self.model, self.tested, self.rule):
            self.processes.equalize(part.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: model, rule, steps and, with averaged weights, latent."""
        state = {"model": self.tested.state_dict(), "rule": self.rule.state_dict(), "steps": self.steps}
        return state | ({"latent": self.model.state_dict()} if self.average else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave. Errors: those of torch where it does not fit."""
        self.model.load_state_dict(state["latent" if self.average else "model"])
        self.tested.load_state_dict(state["model"])
        self.rule.load_state_dict(state["rule"])
        self.steps = state["steps"]


def to_device(model: nn.Module, device: torch.device, shape: tuple[int, int, int]) -> torch.memory_format:
    """Moves a model to a device and returns the memory format of images [N, C, H, W], and weights, that it runs with.

    Channels last is the faster one; a forward that takes views of its values may need them contiguous. `shape` is that
    of an image, (C, H, W).
    """
    training = model.training
    for memory_format in (torch.channels_last, torch.contiguous_format):
        model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        try:
            with torch.no_grad(), quiet_failures():
                model.eval()(torch.zeros(2, *shape, device=device).to(memory_format=memory_format))
            break
        except RuntimeError:
            if memory_format is torch.contiguous_format:
                raise
        finally:
            model.train(training)
    return memory_format
