"""The settings of a training run: every default in one place, and their file."""

import json
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints

from fsg import FsgError, replacing

FORMAT = 1
"""Version of the run folder's files; raised when older runs can no longer be read."""

METHODS = ("fsg", "ste")
MODELS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
"""CIFAR ResNets and their blocks per stage: depth = 6 blocks + 2."""
CHOICES = {
    "method": METHODS,
    "model": tuple(MODELS),
    "activation_bits": (1, 32),
    "first_last": ("float", "binary"),
    "quantizer": ("dorefa", "scaled-sign"),
    "optimizer": ("adam", "sgd"),
    "schedule": ("cosine", "step"),
    "device": ("auto", "cpu", "cuda"),
}

T = TypeVar("T")


def check_name(name: T, known: Collection[T], what: str) -> T:
    """Returns `name` if `known` holds it; raises FsgError with the choices otherwise."""
    if name not in known:
        raise FsgError(f"unknown {what} {name!r}: choose one of {', '.join(map(str, known))}")
    return name


@dataclass(frozen=True)
class Config:
    """Settings of one run, as they stand in its config.toml."""

    method: str = "fsg"
    model: str = "resnet20"
    dataset: str = "digits"  # real, and needs no download
    data_dir: str = ""  # "": the user's cache
    init: str = ""  # "": fresh weights
    activation_bits: int = 1  # what XNOR-popcount needs
    first_last: str = "float"  # binary ones cost several points of accuracy and save 4 KB
    quantizer: str = "dorefa"
    epochs: int = 12  # enough for digits; CIFAR wants 100 and more
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 4e-3  # the best of 2e-3, 4e-3, 8e-3 for straight-through Adam on CIFAR-10 images
    schedule: str = "cosine"
    step_epochs: int = 30  # schedule "step": epochs between divisions of lr by 10
    alpha: float = 0.9  # FSG: weight of the slow gradient, and decay of its momentum
    history: int = 5  # FSG: gradients that the slow net sees
    meta_lr: float = 3e-3  # FSG: learning rate of the hypernetworks; 1e-2 saturates their gates within 240 steps
    augment: bool = True
    seed: int = 0
    threads: int = 0  # 0: PyTorch's choice
    device: str = "auto"  # cuda where there is one

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            check_name(getattr(self, name), known, name.replace("_", " "))
        for name, low in {
            "epochs": 1,
            "batch_size": 2,
            "step_epochs": 1,
            "history": 1,
            "seed": 0,
            "threads": 0,
        }.items():
            if getattr(self, name) < low:
                raise FsgError(f"{name.replace('_', ' ')} is {getattr(self, name)}: it must be at least {low}")
        if not 0 < self.lr < float("inf"):
            raise FsgError(f"the learning rate is {self.lr}: it must be above 0")
        if not 0 <= self.alpha < 1:
            raise FsgError(f"alpha is {self.alpha}: it must be at least 0 and below 1")
        if not 0 <= self.meta_lr < float("inf"):
            raise FsgError(f"the learning rate of the hypernetworks is {self.meta_lr}: it must not be negative")


def save_config(config: Config, path: Path) -> None:
    """Writes config.toml."""
    lines = [f"format = {FORMAT}", *(f"{key} = {json.dumps(value)}" for key, value in asdict(config).items())]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_config(path: Path) -> Config:
    """Reads config.toml. Errors: FsgError for a missing or broken file, another version, an unknown key or value."""
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError as error:
        raise FsgError(f"{path.parent} is not a run: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise FsgError(f"cannot read {path}: {error}") from error
    check_format(values.pop("format", None), path)
    types = get_type_hints(Config)
    for key, value in values.items():
        if key not in types:
            raise FsgError(f"{path}: unknown key {key!r}; remove it")
        expected = types[key]
        if expected is float and type(value) is int:
            values[key] = float(value)
        elif type(value) is not expected:
            raise FsgError(f"{path}: {key} is {value!r}; it must be of type {expected.__name__}")
    try:
        return Config(**values)
    except FsgError as error:
        raise FsgError(f"{path}: {error}") from error


def check_format(version: object, path: Path) -> None:
    """Raises FsgError unless a file of a run has this version's format."""
    if version != FORMAT:
        found = "no run format" if version is None else f"run format {version}"
        raise FsgError(
            f"{path} has {found}, this fsg reads format {FORMAT}: use the version of fsg that wrote it, or train anew"
        )
