"""`fsg completion`: scripts for shells that complete commands, options and names."""

import click

SHELLS = {
    "bash": 'eval "$(fsg completion bash)", in ~/.bashrc',
    "zsh": 'eval "$(fsg completion zsh)", in ~/.zshrc',
    "fish": "fsg completion fish | source, in ~/.config/fish/config.fish",
}


@click.command(epilog="\b\n" + "\n".join(f"{shell}: {where}" for shell, where in SHELLS.items()))
@click.argument("shell", type=click.Choice(tuple(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete fsg's commands and options.

    The line that reads it stands in the shell's start-up file:
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "fsg", "_FSG_COMPLETE").source())


def device_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The devices that a word may become."""
    from fsg import FsgError
    from fsg.runtime.boards.devices import load_devices

    try:
        return [name for name in load_devices() if name.startswith(incomplete)]
    except FsgError:
        return []
