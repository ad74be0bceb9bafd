"""The loss that training descends: cross-entropy, with smoothed labels and a teacher if wanted."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsg import FsgError
from fsg.training.config import Config
from fsg.training.networks.external import float_model
from fsg.training.networks.layers import binary_layers
from fsg.training.networks.resnet import build_float_model
from fsg.training.networks.weights import load_initial_weights


class Objective:
    """Mean loss of a batch, in nats: (1 - w) CE(labels) + w T^2 KL(teacher || student), both softened by T.

    CE is the cross-entropy with a share `label_smoothing` of each label spread evenly over all classes (Szegedy et al.
    2016, arXiv 1512.00567); w is `teacher_weight`, 0 without a teacher, and T the temperature (Hinton et al. 2015,
    arXiv 1503.02531). With `class_weights`, one number for each class, every class's terms of CE are multiplied by its.
    """

    def __init__(
        self,
        config: Config,
        teacher: Callable[[Tensor], Tensor] | None = None,
        class_weights: Sequence[float] = (),
    ) -> None:
        self.class_weights = torch.tensor(class_weights) if class_weights else None
        self.smoothing = config.label_smoothing
        self.weight, self.temperature = config.teacher_weight, config.temperature
        self.teacher = teacher

    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of `logits` [N, classes], the student's of `images` [N, C, H, W], with labels [N]."""
        loss = self._cross_entropy(logits, labels)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            target = F.log_softmax(self.teacher(images) / self.temperature, 1)
        student = F.log_softmax(logits / self.temperature, 1)
        distance = F.kl_div(student, target, reduction="batchmean", log_target=True)
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * distance

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        weights = self.class_weights = self.class_weights.to(logits)
        # torch's own mean would divide by the batch's weights: a rare class would count less the more it is drawn.
        total = F.cross_entropy(logits, labels, weights, label_smoothing=self.smoothing, reduction="sum")
        return total / len(labels)


def load_teacher(config: Config, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The full-precision network of the run's model with the weights in `config.teacher`, in evaluation mode.

    It takes images of `shape` (C, H, W). Errors: FsgError for a file that cannot be read or is of another network, and
    for a model that has no full-precision form.
    """
    if ":" in config.model:
        teacher = float_model(config.model, classes=classes, shape=shape)
    else:
        teacher = build_float_model(config.model, classes=classes, channels=shape[0])
    if binary_layers(teacher):
        raise FsgError(f"teacher: {config.model} makes a binary network; a teacher needs a full-precision one")
    load_initial_weights(teacher, Path(config.teacher), "teacher")
    return teacher.requires_grad_(False).eval()
