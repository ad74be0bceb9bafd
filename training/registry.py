"""What a run can be made of, by name: methods with their gradient rules, and networks. Imports no torch."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from fsg import FsgError

if TYPE_CHECKING:
    from torch import nn

    from fsg.training.config import Config
    from fsg.training.methods.base import GradientRule

T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """A method: where the class of its gradient rule is, what "auto" means for its network, and its own settings.

    `settings` are those of `Config` that the rule takes as arguments besides the ones that every rule takes; what was
    not set is left to the class's own default, but for those in `always`.
    """

    rule: str  # "module:class", imported when a run needs it
    quantizer: str = "dorefa"
    activation_gradient: str = "polynomial"
    settings: tuple[str, ...] = ()
    always: tuple[str, ...] = ()


METHODS = {
    "fsg": Method(
        "fsg.training.methods.fsg:FSG",
        settings=(
            *("alpha", "hypernetwork"),
            *("fast_lr", "slow_lr", "hidden", "nonlinearity", "expand", "d_state", "d_conv"),
        ),
        always=("variant", "history", "slow", "embedding"),
    ),
    "ste": Method("fsg.training.methods.base:STE"),
    "sign-ste": Method("fsg.training.methods.base:STE", quantizer="scaled-sign"),
    "metaquant": Method(
        "fsg.training.methods.metaquant:MetaQuant",
        settings=("fast_lr", "hidden", "nonlinearity"),
        always=("metanet",),
    ),
    "irnet": Method("fsg.training.methods.base:STE", quantizer="irnet", activation_gradient="ede"),
}
COMMON = ("lr", "optimizer", "beta1", "weight_decay")
"""Settings that every rule takes; and beta2, where it is set."""

MODELS = {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
"""CIFAR ResNets and their blocks per stage: depth = 6 blocks + 2."""
FIRST_LAST = ("float", "binary")


def check_name(name: T, known: Collection[T], what: str) -> T:
    """Returns `name` if `known` holds it; raises FsgError with the choices otherwise."""
    if name not in known:
        raise FsgError(f"unknown {what} {name!r}: choose one of {', '.join(map(str, known))}")
    return name


def quantizers(config: "Config") -> tuple[str, str]:
    """The weight quantiser and the activation gradient of a run's network, "auto" resolved."""
    method = METHODS[config.method]
    own = (method.quantizer, method.activation_gradient)
    given = config.quantizer, config.activation_gradient
    weights, activations = (mine if name == "auto" else name for mine, name in zip(own, given, strict=True))
    return weights, activations


def make_rule(config: "Config", model: "nn.Module") -> "GradientRule":
    """The gradient rule that a run's settings name, on its network."""
    method = METHODS[config.method]
    settings: dict[str, Any] = {name: getattr(config, name) for name in (*COMMON, *method.always)}
    unset = {field.name: field.default for field in fields(config)}
    own = {name: getattr(config, name) for name in ("beta2", *method.settings)}
    settings |= {name: value for name, value in own.items() if value != unset[name]}
    module, _, name = method.rule.partition(":")
    rule: GradientRule = getattr(import_module(module), name)(model, **settings)
    rule.plan(ede_end=config.ede_end, two_stages=config.two_stages)
    return rule
