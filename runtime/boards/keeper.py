"""The shell that keeps a session open on a board: what it runs, and what it says."""

import os
import platform
import re
from pathlib import Path

BEGIN = b"fsg-begin\n"  # what a board says before it is the noise of its user's shell
# What a keeper says after that: other folders, the system, its kind of machine, and its own folder.
READY = re.compile(r"(.*?)fsg-board\n(.*?)\n(.*?)\n(.+)\nfsg-ready\n", re.DOTALL)

SCRIPT = Path(__file__).with_name("keeper.sh")

RUN = "./%s %s & echo $! > pid; wait $!; code=$?; rm -f pid; exit $code"


def keeper_script(pid: int | None = None) -> str:
    """What a keeper runs, for the process of this machine with that id; this process if none is given."""
    return _one_line().replace("CLIENT", f"{_node()}-{pid or os.getpid()}")


def is_abandoned(folder: str) -> bool:
    """Whether a folder on a board, whose keeper lives, belongs to a process of this machine that does not.

    That is so where a connection was lost in a way that the board cannot notice for hours.
    """
    client = folder.rpartition(".")[0].rpartition(".")[2]
    node, _, pid = client.rpartition("-")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return node == _node()
    except (PermissionError, ValueError, OverflowError):
        pass
    return False


def _node() -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in platform.node())


def _one_line() -> str:
    """keeper.sh as ssh hands it over."""
    lines = (line.strip() for line in SCRIPT.read_text(encoding="utf-8").splitlines())
    return " ".join(line for line in lines if line and not line.startswith("#"))
