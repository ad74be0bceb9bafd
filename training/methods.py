"""The methods by name: which gradient rule, with which quantisers, a run's settings ask for."""

from typing import Any

from torch import nn

from fsg.training.config import Config, check_name
from fsg.training.per_weight import PerWeightFSG
from fsg.training.reference import ReferenceFSG
from fsg.training.rules import STE, GradientRule

FSG_VARIANTS: dict[str, type[GradientRule]] = {"per-weight": PerWeightFSG, "reference": ReferenceFSG}
REFERENCE_SETTINGS = ("fast_lr", "slow_lr", "hidden", "nonlinearity", "expand", "d_state", "d_conv")


def FSG(model: nn.Module, *, variant: str = "per-weight", **settings: Any) -> GradientRule:
    """Fast and slow gradient generation: variant "per-weight" (`PerWeightFSG`) or "reference" (`ReferenceFSG`)."""
    return FSG_VARIANTS[check_name(variant, FSG_VARIANTS, "variant")](model, **settings)


def make_rule(config: Config, model: nn.Module) -> GradientRule:
    """The gradient rule that a run's settings name."""
    common: dict[str, Any] = {"lr": config.lr, "optimizer": config.optimizer}
    adam: dict[str, Any] = {"beta1": config.beta1, "weight_decay": config.weight_decay}
    if config.method == "fsg":
        fsg: dict[str, Any] = {"variant": config.variant, "alpha": config.alpha, "history": config.history}
        if config.variant == "reference":
            fsg |= {"slow": config.slow, "embedding": config.embedding, **adam}
            given = {name: getattr(config, name) for name in REFERENCE_SETTINGS}
            fsg |= {name: value for name, value in given.items() if value not in (0, "auto")}
        return FSG(model, **fsg, **common)
    check_name(config.method, ("ste",), "method")
    return STE(model, **common, **adam)
