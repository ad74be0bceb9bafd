"""The methods by name: which gradient rule, with which quantisers, a run's settings ask for."""

from typing import Any

from torch import nn

from fsg.training.config import Config, check_name
from fsg.training.metaquant import MetaQuant
from fsg.training.per_weight import PerWeightFSG
from fsg.training.reference import ReferenceFSG
from fsg.training.rules import STE, GradientRule

FSG_VARIANTS: dict[str, type[GradientRule]] = {"per-weight": PerWeightFSG, "reference": ReferenceFSG}
QUANTIZERS = {
    "fsg": ("dorefa", "polynomial"),
    "ste": ("dorefa", "polynomial"),
    "sign-ste": ("scaled-sign", "polynomial"),
    "metaquant": ("dorefa", "polynomial"),
    "irnet": ("irnet", "ede"),
}
"""What "auto" means for each method: its weights' quantiser and its activations' gradient."""
NET_SETTINGS = ("fast_lr", "slow_lr", "hidden", "nonlinearity", "expand", "d_state", "d_conv")
METAQUANT_SETTINGS = ("fast_lr", "hidden", "nonlinearity")


def FSG(model: nn.Module, *, variant: str = "per-weight", **settings: Any) -> GradientRule:
    """Fast and slow gradient generation: variant "per-weight" (`PerWeightFSG`) or "reference" (`ReferenceFSG`)."""
    return FSG_VARIANTS[check_name(variant, FSG_VARIANTS, "variant")](model, **settings)


def quantizers(config: Config) -> tuple[str, str]:
    """The weight quantiser and the activation gradient of a run's network, "auto" resolved."""
    own = QUANTIZERS[config.method]
    given = config.quantizer, config.activation_gradient
    weights, activations = (mine if name == "auto" else name for mine, name in zip(own, given, strict=True))
    return weights, activations


def make_rule(config: Config, model: nn.Module) -> GradientRule:
    """The gradient rule that a run's settings name; its quantisers are the model's, see `quantizers`.

    "ste" (DoReFa's weights), "sign-ste" (XNOR-Net's) and "irnet" (IR-Net's) differ in those alone.
    """
    common = {name: getattr(config, name) for name in ("lr", "optimizer", "beta1", "weight_decay")}
    common |= given(config, ("beta2",))
    if config.method == "fsg":
        settings = {name: getattr(config, name) for name in ("variant", "history", "slow", "embedding")}
        if config.alpha != -1:
            settings["alpha"] = config.alpha
        return FSG(model, **settings, **given(config, NET_SETTINGS), **common)
    if config.method == "metaquant":
        return MetaQuant(model, metanet=config.metanet, **given(config, METAQUANT_SETTINGS), **common)
    return STE(model, **common)


def given(config: Config, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the named settings that are not left to the method."""
    settings = {name: getattr(config, name) for name in names}
    return {name: value for name, value in settings.items() if value not in (0, "auto")}
