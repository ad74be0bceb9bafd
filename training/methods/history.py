"""Historical Gradient Storage (HGS): the last gradients of all binary weights."""

import torch
from torch import Tensor, nn


class GradientHistory(nn.Module):
    """A ring buffer of `length` gradients of `size` weights, zero until it has filled."""

    gradients: Tensor
    count: Tensor

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.register_buffer("gradients", torch.zeros(length, size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def push(self, gradient: Tensor) -> None:
        """Stores a gradient [size], over the oldest one."""
        self.gradients[int(self.count) % len(self.gradients)] = gradient
        self.count += 1

    def newest(self) -> Tensor:
        """The gradient stored last, [size]."""
        return self.gradients[(int(self.count) - 1) % len(self.gradients)]

    def stored(self) -> Tensor:
        """The gradients pushed so far, at most `length` of them: [n, size], oldest first."""
        length = len(self.gradients)
        return self.ordered().T[length - min(int(self.count), length) :]

    def ordered(self) -> Tensor:
        """All gradients, [size, length], oldest first."""
        return self.gradients.roll(-(int(self.count) % len(self.gradients)), 0).T
