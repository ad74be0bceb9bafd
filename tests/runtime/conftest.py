"""Makes the helper modules in tests/support and tests/benchmarks importable: pytest's importlib mode does not."""

import sys
import types
from pathlib import Path

import pytest

from fsg import FsgError
from fsg.runtime.boards.devices import find_device as published_device

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("support", "benchmarks")]


@pytest.fixture
def parts(monkeypatch):
    """Stand-ins for what reaches boards and the emulator; returns what they were asked for."""
    import records

    asked = []

    class Board:
        left_behind = ""

        def __init__(self, host=None, **options):
            self.host = host
            asked.append(("board", host, options))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            asked.append(("closed", self.host))

    def measure(board, models, *, device, threads, progress, profile, **how):
        if board.host == "broken":
            raise FsgError("broken: no route to host; is it on?")
        asked.append(("measure", board.host, how))
        progress("measuring")
        return [
            records.measured(p, host=board.host, device=device.name, threads=n, factor=1 + i, ops=profile)
            for i, p in enumerate(models)
            for n in threads
        ]

    emulation = types.SimpleNamespace(
        why_not=lambda: None,
        emulate=lambda path, *, device, profile=False, **_: {
            **records.emulated(path, profile=profile),
            "device": device,
        },
    )
    monkeypatch.setitem(sys.modules, "fsg.runtime.measure.on_board", types.SimpleNamespace(measure=measure))
    monkeypatch.setitem(sys.modules, "fsg.runtime.boards.ssh", types.SimpleNamespace(SshBoard=Board))
    monkeypatch.setattr("fsg.runtime.boards.board.LocalBoard", Board)
    monkeypatch.setitem(sys.modules, "fsg.runtime.measure.emulate", emulation)
    board = published_device("rpi4")

    def find_device(name, extra=None):
        if name not in ("local", "rpi4", "rpi5"):
            raise FsgError(f"no device is called {name}; there are local, rpi4, rpi5")
        return board

    devices = types.SimpleNamespace(find_device=find_device)
    monkeypatch.setitem(sys.modules, "fsg.runtime.boards.devices", devices)
    return types.SimpleNamespace(asked=asked, board=Board, emulation=emulation, find_device=find_device)
