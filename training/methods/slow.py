"""The slow net of FSG's per-weight rule: what it remembers of each layer, and what it makes of that."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fsg.training.methods.hyperfile import DECAYS, OUTPUTS, Hypernetwork
from fsg.training.networks.layers import BinaryLayer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration that drives all singular values towards 1 (Jordan et al. 2024, the optimizer Muon)."""
ROUNDS = 5
SHORT = 252  # steps, of a training whose length is 0
CREDIT_DECAY = 0.95
CREDIT_UNIT, FLIPS_UNIT = 0.1, 0.003  # what they usually are


class LayerNet(nn.Module):
    """Reads the history of each layer: outputs = weights x inputs, for every layer and step.

    Inputs, in the order of `hyperfile.INPUTS`, most of them about 0 on the average: 1; the progress from -1 to 1; the
    length of the training, log10(steps / 252), from 0 on; what tells one layer from another (the layer recognition
    embedding): depth from -1 to 1, log2(fan-in) / 2 - 4, and 1 for one-bit and -1 for float inputs; and of the layer's
    past, each as means over some ten and a hundred steps:

        credit    of the weights that flipped: 1 - 10 g dq / (2 r), g the gradient after the flip of a weight by dq; it
                  is usually negative, which is to say that the gradient wants them back
        cosine    of the last two gradients
        flips     log10 of the share of weights that flipped in a step, 0.3 % being 0
    """

    weights: Tensor
    sizes: Tensor
    kind: Tensor
    seen: Tensor
    credit: Tensor
    count: Tensor
    decays: Tensor

    def __init__(
        self, net: Hypernetwork, layers: Sequence[BinaryLayer], *, history: bool, embedding: bool, one_bit: bool
    ) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(net.weights))
        sizes = torch.tensor([float(layer.weight.numel()) for layer in layers])
        self.register_buffer("sizes", sizes, persistent=False)
        fan_in = torch.tensor([layer.weight[0].numel() for layer in layers]).log2() / 2 - 4
        kind = torch.stack([torch.linspace(-1, 1, len(layers)), fan_in, torch.full_like(fan_in, one_bit or -1.0)])
        self.register_buffer("kind", kind if embedding else torch.zeros_like(kind), persistent=False)
        self.register_buffer("credit", torch.zeros(2, len(layers)))  # means of the credit's sum, and of the flips
        self.register_buffer("seen", torch.zeros(3, len(DECAYS), len(layers)))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("decays", torch.tensor(DECAYS)[:, None], persistent=False)
        used = self.weights.any(1).tolist()
        self.used = {name for name, is_used in zip(OUTPUTS, used, strict=True) if is_used}
        self.remembers = history and bool(self.weights[:, 3 + len(kind) :].any())

    def inputs(self, progress: float, steps: int) -> Tensor:
        """[inputs, layers], after a share `progress` of a training of `steps`."""
        ones = torch.ones_like(self.kind[:1])
        past = (self.seen / (1 - self.decays ** self.count.clamp(min=1))).flatten(0, 1)
        length = max(0.0, math.log10(max(steps, 1) / SHORT))
        return torch.cat([ones, (2 * progress - 1) * ones, length * ones, self.kind, past])

    def outputs(self, progress: float, steps: int) -> dict[str, Tensor]:
        """By name, [layers] each."""
        return dict(zip(OUTPUTS, self.weights @ self.inputs(progress, steps), strict=True))

    def see(self, credit: Tensor, flips: Tensor, product: Tensor, square: Tensor, before: Tensor) -> None:
        """Takes in a step, [layers] each: the sum of the flipped weights' credit, how many flipped, and the inner
        product of the last two gradients with the squares of both."""
        tiny = torch.finfo(credit.dtype).tiny
        self.credit.lerp_(torch.stack([credit, flips.to(credit)]), 1 - CREDIT_DECAY)
        values = torch.stack(
            [
                1 + self.credit[0] / (self.credit[1] + tiny) / CREDIT_UNIT,
                product / (square * before + tiny).sqrt(),
                torch.log10((flips / self.sizes / FLIPS_UNIT).clamp(0.01)),
            ]
        )
        self.seen.mul_(self.decays).add_((1 - self.decays) * values[:, None])
        self.count += 1


def orthogonalized(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Matrices [out, ...] -> about the nearest semi-orthogonal ones, with singular values of 0.7 to 1.2.

    Each round takes X to (a + b XX' + c (XX')^2) X. The factors are polynomials of the first XX', so they are
    multiplied up as the small matrices that they are. Matrices of one shape are computed together.
    """
    alike = defaultdict(list)
    for index, tensor in enumerate(tensors):
        alike[tuple(tensor.flatten(1).shape)].append(index)
    result = list(tensors)
    for (rows, columns), indices in alike.items():
        x = torch.stack([tensors[index].flatten(1) for index in indices])
        x = x.mT if rows > columns else x
        x = x / (x.norm(dim=(1, 2), keepdim=True) + torch.finfo(x.dtype).tiny)
        a, b, c = NEWTON_SCHULZ
        gram = x @ x.mT
        product = identity = torch.eye(len(gram[0]), device=x.device, dtype=x.dtype)
        for _ in range(ROUNDS):
            factor = a * identity + b * gram + c * gram @ gram
            product = factor @ product
            gram = factor @ gram @ factor
        x = product @ x
        x = x.mT if rows > columns else x
        for index, matrix in zip(indices, x, strict=True):
            result[index] = matrix.reshape(tensors[index].shape)
    return result
