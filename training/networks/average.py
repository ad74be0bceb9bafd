"""Averages of the weights over the steps of a training."""

import torch
from torch import nn

from fsg.training.networks.trace import copied


class AveragedModel:
    """An exponential moving average of a model's latent weights and buffers, as a model of its own.

    After step t: average <- d average + (1 - d) model with d = min(decay, t / (t + 9)), so that the first weights
    are soon forgotten. The bits of the average are the signs of the averaged latent weights. Whole numbers, such as
    the batch norms' counts, are copied. Source: Polyak and Juditsky 1992; the growing decay is TensorFlow's.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copied(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the model's state after a step, counted from 1."""
        weight = 1 - min(self.decay, step / (step + 9))
        state = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(state[name], weight)
            else:
                average.copy_(state[name])
