"""Names what LiteRT and XNNPACK run before, between and after the delegate's partitions.

Such a stretch is measured as a whole, in time, or in instructions and cycles under emulation. Where it is of several
operators, that is shared out in proportion to what each takes as a model of its own.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.model.cut import Cutter
from fsg.runtime.model.operators import Operator, read_operators
from fsg.runtime.model.tflite import read_tflite

Op = dict[str, Any]
Amounts = Mapping[str, float]
"""What an inference takes, by the names of its quantities in a profile: {"us": microseconds}."""
Alone = Callable[[Path], Amounts]
"""What an inference of a .tflite file takes, run as the profiled model is; FsgError where that cannot be."""

WITHIN = "between fsg's operators"
NAMED = 3  # operators that the name of a stretch lists one by one


def named_ops(path: Path, ops: Sequence[Op], owners: Sequence[int], alone: Alone) -> list[Op]:
    """The ops of a profile, those of kind "rest" by the names of LiteRT's operators, a row for each.

    Args:
        path: the .tflite file that was profiled.
        ops: in the order in which they ran, {name, kind, binary_macs} and the quantities that `alone` has, such as us;
            the delegate's with their partition.
        owners: the partition that runs an operator of the file, -1 for LiteRT; LiteRT runs those behind the end.
        alone: measures a model of one operator.

    Returns:
        The ops with `float_macs` and `int8_macs` of what LiteRT runs; a share of a stretch has `stretch_us`, or
        such a figure for another quantity: that of all of it. A stretch that cannot be split or named stays one row.
        A pause within a partition is nobody's.
    """
    order = list(dict.fromkeys(op["partition"] for op in ops if "partition" in op))
    runs = _runs(path, owners, order)
    operators = read_operators(path)
    found: list[Op] = []
    done = 0  # partitions that have begun
    with tempfile.TemporaryDirectory(prefix="fsg-") as folder:
        clock = _Clock(path, Path(folder), alone)
        for i, op in enumerate(ops):
            if op["kind"] != "rest":
                done = max(done, order.index(op["partition"]) + 1) if "partition" in op else done
                found.append({name: value for name, value in op.items() if name != "partition"})
                continue
            before, after = (ops[n].get("partition") if 0 <= n < len(ops) else None for n in (i - 1, i + 1))
            if before is not None and before == after:
                found.append({**op, "name": WITHIN})
            else:
                found += _split(op, runs.get(frozenset(order[:done]), []), operators, clock)
    return found


def operator_name(operator: Operator) -> str:
    """Such as "CONV_2D 7x7 -> 112x112x64"."""
    return f"{operator.kind}{_window(operator)} -> {'x'.join(map(str, operator.shape)) or '1'}"


class _Clock:
    """Times operators as models of their own, those that do the same work once."""

    def __init__(self, path: Path, folder: Path, alone: Alone) -> None:
        self._path, self._file, self._alone = path, folder / "operator.tflite", alone
        self._known: dict[Hashable, Amounts] = {}

    @cached_property
    def cutter(self) -> Cutter:
        return Cutter(self._path)

    def __call__(self, numbers: Sequence[int]) -> Amounts:
        likeness = self.cutter.likeness(numbers)
        if likeness not in self._known:
            self._file.write_bytes(self.cutter.cut(numbers))
            self._known[likeness] = self._alone(self._file)
        return self._known[likeness]


def _split(op: Op, numbers: Sequence[int], operators: Sequence[Operator], clock: _Clock) -> list[Op]:
    """A stretch as rows of its operators, or as one that lists them."""
    if not numbers:
        return [op]
    joined = clock.cutter.joined(numbers) if len(numbers) > 1 else [list(numbers)]
    groups = [[operators[number] for number in group] for group in joined]
    if len(groups) == 1:
        return [{**op, "name": _joined_name(groups[0]), **_macs(groups[0])}]
    try:
        times = [clock(group) for group in joined]
    except FsgError:
        return [{**op, "name": _names(groups), **_macs([one for group in groups for one in group])}]
    totals = {name: sum(time[name] for time in times) for name in times[0]}
    whole = {f"stretch_{name}": op[name] for name in totals}
    rows = []
    for group, time in zip(groups, times, strict=True):
        shares = {name: op[name] * time[name] / totals[name] for name in totals}
        rows.append({**op, "name": _joined_name(group), **shares, **whole, **_macs(group)})
    return rows


def _joined_name(operators: Sequence[Operator]) -> str:
    """Such as "PAD + CONV_2D 7x7 -> 112x112x64"."""
    *before, last = operators
    return " + ".join([*(one.kind + _window(one) for one in before), operator_name(last)])


def _window(operator: Operator) -> str:
    return f" {'x'.join(map(str, operator.window))}" if operator.window else ""


def _names(groups: Sequence[Sequence[Operator]]) -> str:
    if len(groups) <= NAMED:
        return ", ".join(map(_joined_name, groups))
    kinds = Counter(one.kind for group in groups for one in group)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _macs(operators: Sequence[Operator]) -> dict[str, int]:
    return {name: sum(getattr(one, name) for one in operators) for name in ("float_macs", "int8_macs")}


def _runs(path: Path, owners: Sequence[int], order: Sequence[int]) -> dict[frozenset[int], list[int]]:
    """The numbers of the operators that LiteRT runs, in their order, by the partitions that have run before them.

    LiteRT runs in turn all that it can run without the delegate, and all that it can run with it. Nothing is returned
    where the partitions ran in an `order` that contradicts this.
    """
    root, _ = read_tflite(path)
    if root.SubgraphsLength() != 1:
        return {}
    graph = root.Subgraphs(0)
    count = graph.OperatorsLength()
    owner = [owners[i] if i < len(owners) else -1 for i in range(count)]
    if not set(order) <= set(owner):
        return {}
    # An operator of LiteRT's, or a partition, and the tensors that must be there before it.
    units: dict[int, list[int]] = {}  # by the number of its first operator
    first: dict[int, int] = {}
    for i in range(count):
        start = i if owner[i] < 0 else first.setdefault(owner[i], i)
        units.setdefault(start, []).append(i)
    produced = {start: {t for i in unit for t in _outputs(graph.Operators(i))} for start, unit in units.items()}
    needed = {
        start: {t for i in unit for t in _inputs(graph.Operators(i))} - produced[start] for start, unit in units.items()
    }
    missing = {tensor for tensors in produced.values() for tensor in tensors}
    found: dict[frozenset[int], list[int]] = {}
    before: set[int] = set()
    is_delegated: bool | None = None
    while units:
        ready = [start for start in units if not needed[start] & missing]
        if not ready:
            return {}
        same = [start for start in ready if (owner[start] >= 0) == is_delegated]
        start = (same or ready)[0]
        is_delegated = owner[start] >= 0
        missing -= produced[start]
        del units[start]
        if not is_delegated:
            found.setdefault(frozenset(before), []).append(start)
        elif owner[start] in order:
            before.add(owner[start])
    possible = {frozenset(order[:n]) for n in range(len(order) + 1)}
    return found if found.keys() <= possible else {}


def _inputs(operator: Any) -> list[int]:
    return [operator.Inputs(i) for i in range(operator.InputsLength()) if operator.Inputs(i) >= 0]


def _outputs(operator: Any) -> list[int]:
    return [operator.Outputs(i) for i in range(operator.OutputsLength())]
