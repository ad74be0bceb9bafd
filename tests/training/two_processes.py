"""Started by torchrun as one of two processes: several commands of fsg one after another, so one start serves them all.

Reads commands.json, {name: arguments of fsg}, in the current folder; what a command printed here goes to NAME.RANK.out.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from fsg import cli
from fsg.training import distributed, launch
from fsg.training.distributed import Processes, joined, use_whole_batch_norm


def check_batch_norm(processes: Processes) -> None:
    """Batch norm over two halves is that of the whole, forwards, backwards and in what it remembers."""
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        shape = [(8, 5), (8, 3, 7), (8, 4, 3, 2)][seed % 3]
        x, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 2 for _ in range(2))
        kind = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d][seed % 3]
        settings = {"affine": seed % 4 != 3, "momentum": None if seed % 2 else 0.3}
        whole, parts = (nn.Sequential(kind(shape[1], **settings)).double() for _ in range(2))
        for model in (whole, parts):
            for number, parameter in enumerate(model.parameters()):
                nn.init.uniform_(parameter, 0.5, 2, generator=torch.Generator().manual_seed(number))
        use_whole_batch_norm(parts, processes)
        part = processes.part(8)
        mine = x[part].clone().requires_grad_()
        x.requires_grad_()
        for _ in range(2):
            expected, found = whole(x), parts(mine)
            torch.testing.assert_close(found, expected[part])
        expected.backward(upstream)
        found.backward(upstream[part])
        torch.testing.assert_close(mine.grad, x.grad[part])
        for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(processes.total(b.grad), a.grad)
        assert whole.state_dict().keys() == parts.state_dict().keys()
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[name], value)
        torch.testing.assert_close(parts.eval()(mine), whole.eval()(x)[part])


def check_exchanges(processes: Processes) -> None:
    values = [torch.full((2, 3), float(processes.rank)), torch.arange(4.0) * processes.rank]
    processes.average(values)
    assert (values[0] == 0.5).all() and values[1].tolist() == [0, 0.5, 1, 1.5]
    state = {"a": [torch.full((2, 3), processes.rank).T], "b": (torch.tensor(float(processes.rank)), "text")}
    processes.equalize(state)
    assert state["a"][0].sum() == 0 and state["b"][0] == 0


def main() -> None:
    store, (rank, count) = launch.store(), launch.rank_and_count()
    assert count == 2

    def start_anew(name: str) -> None:
        """What the processes agreed on before is no answer to what they ask from now on."""
        launch.store = distributed.store = lambda: dist.PrefixStore(name, store)

    start_anew("checks")
    with joined(torch.device("cpu"), 8) as processes:
        check_batch_norm(processes)
        check_exchanges(processes)
    Path(f"checks.{rank}.out").write_text("passed")
    for name, arguments in json.loads(Path("commands.json").read_text()).items():
        start_anew(name)
        sys.argv = ["fsg", *arguments]
        text = io.StringIO()
        try:
            with contextlib.redirect_stdout(text):
                cli.main()
        except SystemExit as end:
            if end.code:
                raise  # torchrun then ends the other process, which may be waiting for this one
        Path(f"{name}.{rank}.out").write_text(text.getvalue())


if __name__ == "__main__":
    main()
