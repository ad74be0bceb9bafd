"""What the network is fed: normalised batches, augmented, on its device."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fsg.training.data.augment import Changes, apply_changes, draw_changes
from fsg.training.data.sets import DataInfo, Dataset
from fsg.training.distributed import Processes

RESERVE = 4  # a data set stays on a CUDA device if it takes less than one such part of the free memory


class Normalizer:
    """uint8 images [N, C, H, W] -> tensor on the device, (pixel / 255 - mean) / std per channel."""

    def __init__(
        self,
        data: DataInfo,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.device, self.dtype, self.memory_format = device, dtype, memory_format
        self.mean = torch.tensor(data.mean, device=device, dtype=dtype).view(-1, 1, 1)
        self.std = torch.tensor(data.std, device=device, dtype=dtype).view(-1, 1, 1)

    def __call__(self, images: np.ndarray | Tensor) -> Tensor:
        tensor = torch.as_tensor(images).to(self.device)
        tensor = tensor.to(self.dtype, memory_format=self.memory_format)
        return (tensor / 255 - self.mean) / self.std


class Feed:
    """Makes this process's part of a training batch. Called with the indices of the whole batch of B images, and the
    generator that every process draws all changes from: images [B / processes, C, H, W], labels [B / processes].

    Images are changed as the data set's `pad` and `flip` say. All of it lives on a CUDA device where it fits, and is
    augmented there.
    """

    def __init__(self, data: Dataset, normalize: Normalizer, processes: Processes) -> None:
        self.data, self.normalize, self.processes = data, normalize, processes
        device = normalize.device
        self.labels = torch.from_numpy(data.y_train).to(device)
        fits = device.type == "cuda" and data.x_train.nbytes < torch.cuda.mem_get_info(device)[0] // RESERVE
        self.images = torch.from_numpy(data.x_train).to(device) if fits else None

    def __call__(self, index: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        part, pad = self.processes.part(len(index)), self.data.pad
        flip = self.data.flip
        changes = draw_changes(len(index), rng, pad=pad, flip=flip).part(part) if pad or flip else None
        chosen = torch.from_numpy(index[part]).to(self.labels.device)
        images: np.ndarray | Tensor
        if self.images is not None:
            images = self.images[chosen]
            images = images if changes is None else apply_changes_on_device(images, changes, pad)
        else:
            images = self.data.x_train[index[part]]
            images = images if changes is None else apply_changes(images, changes, pad)
        return self.normalize(images), self.labels[chosen]


def apply_changes_on_device(images: Tensor, changes: Changes, pad: int) -> Tensor:
    """`apply_changes` of a uint8 tensor [B, C, H, W], on its device."""
    count, _, height, width = images.shape
    rows = changes.top[:, None] + np.arange(height)
    columns = changes.left[:, None] + np.arange(width)
    columns = np.where(changes.mirrored[:, None], columns[:, ::-1], columns)
    image, row, column = (
        torch.from_numpy(axis).to(images.device)
        for axis in (np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    )
    return F.pad(images, (pad,) * 4)[image, :, row, column].permute(0, 3, 1, 2)
