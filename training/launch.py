"""Which of the processes that torchrun started this one is, and what they agree on without tensors.

Importing this needs no torch, so that a command can ask before anything slow begins.
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

PATIENCE = timedelta(hours=2)  # the first process may be downloading a data set meanwhile


def in_several_processes() -> bool:
    """Whether torchrun, or who sets the same variables, started this process as one of several."""
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in wanted) and os.environ["WORLD_SIZE"] != "1"


def rank_and_count() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if in_several_processes() else (0, 1)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank_and_count()[0] == 0


def first_decides(choose: Callable[[], str]) -> str:
    """The first process's `choose()`, in every process; the others do not call it."""
    if not in_several_processes():
        return choose()
    if is_first():
        store().set("decision", choose())
    while not store().check(["decision"]):  # a blocking read would not notice signals
        time.sleep(0.05)
    return store().get("decision").decode()


def reports_failure() -> bool:
    """Whether this process should print what ended it: the first that asks does, the others follow its end."""
    if not in_several_processes():
        return True
    try:
        return store().add("failures", 1) == 1
    except (ImportError, RuntimeError, ValueError):  # the store went with the process that kept it
        return is_first()


@cache
def store() -> Any:
    """The torch.distributed.Store of these processes, for which torchrun keeps a place."""
    import torch.distributed

    return next(iter(torch.distributed.rendezvous("env://", timeout=PATIENCE)))[0]
