"""The methods by name: which gradient rule, with which quantisers, a run's settings ask for."""

from typing import Any

from torch import nn

from fsg.training.config import Config, check_name
from fsg.training.per_weight import PerWeightFSG
from fsg.training.rules import STE, GradientRule


def FSG(model: nn.Module, *, variant: str = "per-weight", **settings: Any) -> GradientRule:
    """Fast and slow gradient generation: variant "per-weight" (see `PerWeightFSG`)."""
    check_name(variant, ("per-weight",), "variant")
    return PerWeightFSG(model, **settings)


def make_rule(config: Config, model: nn.Module) -> GradientRule:
    """The gradient rule that a run's settings name."""
    common: dict[str, Any] = {"lr": config.lr, "optimizer": config.optimizer}
    if config.method == "fsg":
        return FSG(model, variant=config.variant, alpha=config.alpha, history=config.history, **common)
    check_name(config.method, ("ste",), "method")
    return STE(model, **common, beta1=config.beta1, weight_decay=config.weight_decay)
