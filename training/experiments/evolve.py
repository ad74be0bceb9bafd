"""Evolution strategies: the descent of a function that is known only by its noisy values.

Antithetic pairs (Salimans et al. 2017, arXiv 1703.03864), each with one perturbation for a whole training (ES-Single,
Vicol 2023, arXiv 2304.11153): x + sigma e and x - sigma e are judged by the same task, seed and batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def perturbation(seed: int, generation: int, pair: int, size: int) -> Values:
    """The e of a pair, [size], standard normal; it follows from the three numbers."""
    return np.random.default_rng([seed, generation, pair]).standard_normal(size)


def utilities(plus: Sequence[float], minus: Sequence[float]) -> Values:
    """What each pair's values say of its e, [pairs]: from 1, the better side was far ahead, to -1.

    The relative differences of the pairs, so that tasks with high losses count no more than others, by the root mean
    square of all of them and cut at twice that. A side that went astray (infinite) has lost by as much as may be.
    """
    ends = np.stack([np.asarray(minus, float), np.asarray(plus, float)])
    with np.errstate(invalid="ignore"):
        difference = (ends[0] - ends[1]) / (ends[0] + ends[1])
    astray = np.isinf(ends)
    known = difference[~astray.any(0)]
    size = float(np.sqrt(np.mean(known**2))) if known.any() else 1.0
    result = np.clip(np.nan_to_num(difference / size, nan=0.0), -2, 2) / 2
    return np.where(astray.any(0), astray[0] * 1.0 - astray[1] * 1.0, result)


@dataclass
class Descent:
    """A point [n] that moves by Adam along what the pairs of each generation say; `step` is how far at most."""

    point: Values
    sigma: float = 0.15
    step: float = 0.03
    betas: tuple[float, float] = (0.9, 0.95)
    moved: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros_like(self.point), np.zeros_like(self.point)

    def sides(self, e: Values) -> tuple[Values, Values]:
        return self.point + self.sigma * e, self.point - self.sigma * e

    def learn(self, es: Sequence[Values], plus: Sequence[float], minus: Sequence[float]) -> None:
        """Moves by what one generation found: the perturbations, and the values on both sides, less being better."""
        gradient = utilities(plus, minus) @ np.stack(es) / len(es)
        self.moved += 1
        self.mean += (1 - self.betas[0]) * (gradient - self.mean)
        self.square += (1 - self.betas[1]) * (gradient**2 - self.square)
        mean = self.mean / (1 - self.betas[0] ** self.moved)
        root = np.sqrt(np.mean(self.square / (1 - self.betas[1] ** self.moved)))
        self.point = self.point + self.step * mean / (root + 1e-12)
