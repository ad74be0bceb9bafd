"""The methods by name: which gradient rule, with which quantisers, a run's settings ask for."""

from typing import Any

from torch import nn

from fsg.training.config import Config, check_name
from fsg.training.per_weight import PerWeightFSG
from fsg.training.reference import ReferenceFSG
from fsg.training.rules import STE, GradientRule

FSG_VARIANTS: dict[str, type[GradientRule]] = {"per-weight": PerWeightFSG, "reference": ReferenceFSG}
NET_SETTINGS = ("fast_lr", "slow_lr", "hidden", "nonlinearity", "expand", "d_state", "d_conv")


def FSG(model: nn.Module, *, variant: str = "per-weight", **settings: Any) -> GradientRule:
    """Fast and slow gradient generation: variant "per-weight" (`PerWeightFSG`) or "reference" (`ReferenceFSG`)."""
    return FSG_VARIANTS[check_name(variant, FSG_VARIANTS, "variant")](model, **settings)


def make_rule(config: Config, model: nn.Module) -> GradientRule:
    """The gradient rule that a run's settings name."""
    common = {name: getattr(config, name) for name in ("lr", "optimizer", "beta1", "weight_decay")}
    if config.method == "fsg":
        names = ("variant", "alpha", "history", "slow", "embedding")
        nets = {name: getattr(config, name) for name in NET_SETTINGS}
        given = {name: value for name, value in nets.items() if value not in (0, "auto")}
        return FSG(model, **{name: getattr(config, name) for name in names}, **given, **common)
    check_name(config.method, ("ste",), "method")
    return STE(model, **common)
