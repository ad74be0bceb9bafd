"""Where the instructions of an emulated inference go, and the share of the time that their cycles stand for."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.boards.cores import Core
from fsg.runtime.measure.profile import REST
from fsg.runtime.measure.schedule import Scheduler
from fsg.runtime.measure.stretches import WITHIN, Op, named_ops
from fsg.runtime.measure.trace import Trace, total

REMAINDER = "LiteRT and fsg between operators"
RUNS = 2  # of the traced program: the first describes the operators, the second is the one that counts
UNNAMED = (WITHIN, REST)


@dataclass(frozen=True)
class Inference:
    """One inference of a traced program.

    Attributes:
        trace: intervals from its beginning to its end, in turn between operators and in one of the delegate's.
        ops: the delegate's operators as the program names them; `owners`: see `named_ops`.
    """

    trace: Trace
    ops: Sequence[Op]
    owners: Sequence[int]


def last_inference(path: Path, facts: dict[str, Any], trace: Trace) -> Inference:
    """The last of `RUNS` profiled inferences without warmup, of which the program said `facts`.

    Raises:
        FsgError: the clock was read at other times than before and after an inference or operator.
    """
    ops = [op for op in facts.get("ops", []) if op["kind"] != "rest"]
    marks = 2 * (len(ops) + 1)  # of an inference; the program times one before those that it was asked for
    found, expected = len(trace.intervals) - 1, 2 + RUNS * marks
    if found != expected:
        raise FsgError(f"{path}: no emulated profile: the clock was read {found} times, not {expected}")
    return Inference(Trace(trace.blocks, trace.intervals[-marks:-1]), ops, facts.get("partitions", []))


class Costs:
    """Instructions and cycles of intervals: cycles by llvm-mca, else at the core's best rate, or none.

    `basis` says which; it is None without cycles.
    """

    def __init__(self, core: Core) -> None:
        self._scheduler = Scheduler(core) if Scheduler.possible(core) else None
        self._rate = core.peaks.instructions if core.peaks else None
        if self._scheduler:
            stand_in = "" if core.mca == core.name else f" as {core.mca}"
            self.basis: str | None = f"the executed code as llvm-mca schedules it for {core.name}{stand_in}"
        else:
            self.basis = f"{self._rate} instructions in a cycle of {core.name}" if self._rate else None

    @property
    def is_scheduled(self) -> bool:
        """Whether cycles are llvm-mca's."""
        return self._scheduler is not None

    def of(self, trace: Trace, intervals: Sequence[Counter[int]]) -> list[dict[str, float]]:
        """{instructions, cycles} of each; without cycles where nothing is known of the core."""
        instructions = [trace.instructions(interval) for interval in intervals]
        if self._scheduler:
            cycles = self._scheduler.cycles(trace, intervals)
        elif self._rate:
            cycles = [count / self._rate for count in instructions]
        else:
            return [{"instructions": count} for count in instructions]
        return [{"instructions": count, "cycles": found} for count, found in zip(instructions, cycles, strict=True)]

    def of_all(self, trace: Trace) -> dict[str, float]:
        """Of all intervals of a trace together."""
        return self.of(trace, [total(trace.intervals)])[0]


def emulated_ops(path: Path, inference: Inference, costs: Costs, run: Callable[[Path], Inference]) -> list[Op]:
    """The operators of an inference in their order, at last a row for what is between them.

    Args:
        path: the model.
        inference: of it.
        costs: of its core.
        run: emulates a model of one operator, by LiteRT and XNNPACK alone.

    Returns:
        {name, kind, instructions, share, cycles, time_share, binary_macs, float_macs, int8_macs}, those that are known;
        a share of a stretch has stretch_instructions, the count for all of it.
    """

    def alone(file: Path) -> dict[str, float]:
        return costs.of_all(run(file).trace)

    rows = list[Op]()
    for i, cost in enumerate(costs.of(inference.trace, inference.trace.intervals)):
        op = inference.ops[i // 2] if i % 2 else {"name": REST, "kind": "rest", "binary_macs": 0}
        rows.append({**{name: value for name, value in op.items() if name != "us"}, **cost})
    named = named_ops(path, rows, inference.owners, alone)
    # Where LiteRT runs operators that got no name, a stretch is theirs.
    is_known = any("float_macs" in row for row in named) or -1 not in inference.owners
    between = [row for row in named if row["kind"] == "rest" and row["name"] in UNNAMED[: 1 + is_known]]
    kept = [row for row in named if row not in between]
    return _shared([*kept, {**_sum(between), "name": REMAINDER, "kind": "rest"}])


def _sum(rows: Sequence[Op]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) for name in ("instructions", "cycles") if any(name in r for r in rows)}


def _shared(rows: Sequence[Op]) -> list[Op]:
    whole = _sum(rows)
    found = []
    for row in rows:
        made: Op = {"name": row["name"], "kind": row["kind"]}
        for name, share in (("instructions", "share"), ("cycles", "time_share")):
            if name in whole:
                made |= {name: round(row.get(name, 0)), share: round(row.get(name, 0) / (whole[name] or 1.0), 5)}
        if "stretch_instructions" in row:
            made["stretch_instructions"] = round(row["stretch_instructions"])
        made |= {name: row[name] for name in ("binary_macs", "float_macs", "int8_macs") if row.get(name)}
        found.append(made)
    return found
