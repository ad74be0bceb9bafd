"""What several commands need."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from fsg import require_utf8
from fsg.training.folder import newest_export

option = partial(click.option, show_default=True)


def newest(find: Callable[[], Path]) -> Path:
    """What `find` takes for want of an argument, after saying what it is."""
    found = find()
    require_utf8(str(found))
    click.echo(f"taking the newest {'export' if find is newest_export else 'run'}, {found}", err=True)
    return found
