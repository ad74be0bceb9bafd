"""A trained model as its run folder has it, ready to run and to be exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fsg import FsgError, __version__
from fsg.training.checkpoint import BEST, CHECKPOINT, read_checkpoint
from fsg.training.config import Config, load_config
from fsg.training.data.sets import DataInfo
from fsg.training.networks.network import model_for
from fsg.training.probe import require_same

EVALUATION_PIXELS = 256 * 64 * 64
"""In one batch: so the values inside a network fit into memory whatever the size of the images."""


@dataclass(frozen=True)
class Run:
    """A trained model as read from its run folder, without the hypernetworks; `test_accuracy` is the recorded fraction.

    Calling it gives logits [N, classes] of normalised images [N, C, H, W], float32 arrays both, as an opened model
    file does.
    """

    path: Path
    config: Config
    model: nn.Module
    data: DataInfo
    epoch: int
    hypernetwork_parameters: int
    test_accuracy: float
    checkpoint: str = CHECKPOINT

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return predict(self.model, torch.from_numpy(images)).numpy()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.data.shape

    @property
    def metadata(self) -> dict[str, Any]:
        """What travels in exported files: where the model is from, how to normalise its input, its classes."""
        return {
            "fsg_version": __version__,
            "model": self.config.model,
            "method": self.config.method,
            "dataset": self.config.dataset,
            "epochs": self.epoch,
            "seed": self.config.seed,
            "activation_bits": self.config.activation_bits,
            "class_names": list(self.data.class_names),
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "input_shape": [1, *self.data.shape],
            **({"image_size": self.config.image_size, "fit": self.config.fit} if self.config.image_size else {}),
            **({"split": dict(self.data.split)} if self.data.split else {}),
        }


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits [N, classes] of normalised images [N, C, H, W], in evaluation mode."""
    model.eval()
    # A copy of each batch, since networks may begin with what works in place.
    return torch.cat([model(batch.clone()) for batch in images.split(evaluation_batch(images))])


def evaluation_batch(images: Tensor) -> int:
    """How many of the images [N, C, H, W] to take at once, at most 256."""
    height, width = images.shape[2:]
    return min(256, max(1, EVALUATION_PIXELS // (height * width)))


def open_run(folder: Path, *, best: bool = False) -> Run:
    """Reads the model of a run, in evaluation mode: as it was last, or after the `best` epoch on the test images.

    Errors: FsgError, see `load_config`, `read_checkpoint` and `require_same`.
    """
    config = load_config(folder / "config.toml")
    name = BEST if best else CHECKPOINT
    content = read_checkpoint(folder, name)
    try:
        data = DataInfo(**content["data"])
        model = model_for(config, data)
        model.load_state_dict(content["model"])
        epoch, hypernetwork_parameters = content["epoch"], content["hypernetwork_parameters"]
        test_accuracy = content["rows"][-1]["test_accuracy"]
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        raise FsgError(f"{folder / name} does not fit {folder / 'config.toml'}: train anew") from error
    require_same(model, data.shape, content.get("probe"), folder, config.model)
    return Run(folder, config, model.eval(), data, epoch, hypernetwork_parameters, test_accuracy, name)
