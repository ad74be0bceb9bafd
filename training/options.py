"""The settings of a run as options of a command line, for click; and lists of numbers."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from fsg import FsgError
from fsg.training.config import AUTO_YES_NO, HEADINGS, PRESETS, Config, nearest_setting, parse_assignment, settle
from fsg.training.registry import METHODS, check_name

PATH = click.Path(path_type=Path)
SHORT_FORMS: dict[str, dict[str, Any]] = {"no_history": {"history": 0}, "amp": {"precision": "bf16"}}
F = TypeVar("F", bound=Callable[..., Any])


class SettingsCommand(click.Command):
    """A command whose help lists the settings of `Config` under their headings, after its other options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            near = nearest_setting(error.option_name.lstrip("-"))
            if not near or error.possibilities:
                raise
            meant = "--" + near.replace("_", "-")
            raise click.UsageError(f"No such option: {error.option_name}; did you mean {meant}?", ctx) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        records = {option.name: option.get_help_record(ctx) for option in options}
        settings, heading = {}, ""
        for field in fields(Config):
            heading = HEADINGS.get(field.name, heading)
            settings[field.name] = heading
        for title in ("Options", *HEADINGS.values()):
            rows = [row for name, row in records.items() if row and settings.get(name or "", "Options") == title]
            with formatter.section(title):
                formatter.write_dl(rows)


def config_options(command: F) -> F:
    """The options of `fsg train` that give settings: files and short forms, and one for every setting of `Config`."""
    for field in reversed(fields(Config)):
        name, default = "--" + field.name.replace("_", "-"), field.default
        choices = field.metadata["choices"]
        kind: Any = click.Choice(choices) if choices else field.type
        if field.type is bool or choices == AUTO_YES_NO:
            name, kind = f"{name}/--no-{name[2:]}", None
        if choices == AUTO_YES_NO:
            default = None
        command = click.option(
            name,
            field.name,
            type=kind,
            default=default,
            show_default=default not in ("", None),
            help=field.metadata["text"],
        )(command)
    for option in (
        click.option("--amp", is_flag=True, help="The same as --precision bf16."),
        click.option("--no-history", is_flag=True, help="The same as --history 0."),
        click.option("--set", metavar="KEY=VALUE", multiple=True, help="A setting; may be given several times."),
        click.option("--config", type=PATH, help="TOML file of settings: a run's config.toml."),
        click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings that belong together."),
    ):
        command = option(command)
    return command


def config_options_but(*taken: str) -> Callable[[F], F]:
    """`config_options`, but for settings that a command takes in another way or not at all."""

    def decorate(command: F) -> F:
        command = config_options(command)
        parameters = command.__click_params__  # type: ignore[attr-defined]
        parameters[:] = [parameter for parameter in parameters if parameter.name not in taken]
        return command

    return decorate


def given_settings(context: click.Context) -> dict[str, Any]:
    """The settings that a command line asks for: --preset < --config < --set < options."""
    options, default = context.params, click.core.ParameterSource.DEFAULT
    given: dict[str, Any] = {}
    for name, short in SHORT_FORMS.items():
        given |= short if options[name] else {}
    names = [field.name for field in fields(Config) if field.name in options]
    given |= {name: options[name] for name in names if context.get_parameter_source(name) is not default}
    given |= {
        field.name: "yes" if given[field.name] else "no"
        for field in fields(Config)
        if field.metadata["choices"] == AUTO_YES_NO and field.name in given
    }
    return settle(given, preset=options["preset"], file=options["config"], assignments=options["set"])


def sweep_options(methods: str) -> Callable[[F], F]:
    """--methods and the settings, for commands that take several methods."""

    def decorate(command: F) -> F:
        command = config_options_but("method", "seed")(command)
        text = "Gradient rules, each with settings of its own if need be: ste,ste:lr=2e-3,fsg:variant=reference."
        return click.option("--methods", default=methods, show_default=True, help=text)(command)

    return decorate


def chosen(context: click.Context) -> bool:
    """Whether a command line of `sweep_options` says what to train, or on what."""
    given = given_settings(context)
    methods = context.get_parameter_source("methods") is not click.core.ParameterSource.DEFAULT
    return methods or "method" in given or "dataset" in given


def sweep_entries(context: click.Context) -> dict[str, Config]:
    """The settings of each entry of --methods: its own win over those that the command line gives for all."""
    from fsg.training.data.load import check_spec

    common = given_settings(context)
    entries = {}
    for label, own in parse_methods(context.params["methods"]).items():
        entries[label] = Config(**settle(common | own))
        check_spec(entries[label].dataset)
    return entries


def parse_methods(text: str) -> dict[str, dict[str, Any]]:
    """The entries of a list such as "ste,fsg:variant=reference:history=8": each entry's own settings, by entry.

    An entry is a method, followed by `:key=value` for every setting of `Config` it is to have. Errors: FsgError for an
    unknown method or setting, a value of the wrong type, or an entry that stands there twice.
    """
    entries: dict[str, dict[str, Any]] = {}
    for label in filter(None, (part.strip() for part in text.split(","))):
        method, *assignments = re.split(r":(?=[\w-]+=)", label)
        own: dict[str, Any] = {"method": check_name(method, METHODS, "method")}
        for assignment in assignments:
            own |= parse_assignment(assignment, f"method {label}")
        if label in entries:
            raise FsgError(f"{label} stands twice in the list of methods: name it once")
        if own["method"] != method or "seed" in own:
            raise FsgError(f"method {label}: method and seed are no settings of an entry; --seeds lists the seeds")
        entries[label] = own
    if not entries:
        raise FsgError("the list of methods is empty: give some, such as ste,fsg")
    return entries


def parse_counts(option: str, text: str, example: str, *, least: int = 1) -> list[int]:
    """The numbers, of at least `least`, in a list such as "1,2,4"."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < least:
        raise FsgError(f"{option} {text}: give numbers of at least {least}, such as {example}")
    return counts
