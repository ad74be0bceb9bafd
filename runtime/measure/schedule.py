"""Cycles of basic blocks on a core, as llvm-mca schedules them: no caches, no mispredicted branches.

A block that branches to itself takes what one of many iterations takes, with what these wait for of each other. Others
run among different ones every time: on a core that issues out of order they take what their instructions occupy it for;
on one that issues in order, what they take when they follow themselves.
"""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

from fsg import FsgError
from fsg.runtime.boards.cores import Core
from fsg.runtime.measure.trace import Block, Trace

SUFFIXES = ("-19", "-20", "-21", "")  # of the programs of LLVM 19 or later, as Debian names them
COVERED = 0.99  # of the instructions; the others take the same time each as these on average
INVALID = re.compile(r"<stdin>:(\d+):\d+: (?:warning|error)")
MCA_OPTIONS = (
    "--mtriple=aarch64",
    "-json",
    "-resource-pressure=false",
    "-instruction-info=false",
    "-skip-unsupported-instructions=any",
)
NOT_MODELLED = {"bl": "b #0", "blr": "br x30", "ret": "br x30"}  # llvm-mca takes a call for 100 cycles


@cache
def llvm_programs() -> tuple[str, str] | None:
    """llvm-mc and llvm-mca, or None where there is no such pair."""
    for suffix in SUFFIXES:
        disassembler, scheduler = (shutil.which(name + suffix) for name in ("llvm-mc", "llvm-mca"))
        if disassembler and scheduler:
            return disassembler, scheduler
    return None


class Scheduler:
    """What blocks take on a core; knows what it has been asked before. For cores with an `mca` where `possible`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._texts: dict[int, str] = {}  # assembly of an instruction, "" where there is none
        self._cycles: dict[tuple[tuple[int, ...], bool], float] = {}

    @staticmethod
    def possible(core: Core) -> bool:
        """Whether llvm-mca is here and knows the core."""
        return core.mca is not None and llvm_programs() is not None

    def cycles(self, trace: Trace, intervals: Sequence[Counter[int]]) -> list[float]:
        """Cycles of each interval of a trace."""
        sizes = Counter[int]()  # instructions executed in each block
        for interval in intervals:
            sizes.update({number: len(trace.blocks[number].code) * times for number, times in interval.items()})
        hot, covered = list[int](), 0
        for number, count in sizes.most_common():
            if covered > COVERED * sizes.total():
                break
            hot.append(number)
            covered += count
        known = dict(zip(hot, self._scheduled([trace.blocks[number] for number in hot]), strict=True))
        spent = sum(known[number] * sizes[number] / len(trace.blocks[number].code) for number in hot)
        average = spent / (covered or 1)
        return [
            sum(times * known.get(n, average * len(trace.blocks[n].code)) for n, times in interval.items())
            for interval in intervals
        ]

    def _scheduled(self, blocks: Sequence[Block]) -> list[float]:
        keys = [(block.code, block.is_loop) for block in blocks]
        new = [key for key in dict.fromkeys(keys) if key not in self._cycles]
        if new:
            self._disassemble({word for code, _ in new for word in code})
            self._schedule(new)
        return [self._cycles[key] for key in keys]

    def _disassemble(self, words: Iterable[int]) -> None:
        new = [word for word in words if word not in self._texts]
        if not new:
            return
        source = "".join(" ".join(f"0x{byte:02x}" for byte in word.to_bytes(4, "little")) + "\n" for word in new)
        child = self._run(0, ["--triple=aarch64", "--disassemble"], source)
        invalid = {int(line) for line in INVALID.findall(child.stderr)}
        valid = [word for line, word in enumerate(new, 1) if line not in invalid]
        lines = [line.strip() for line in child.stdout.splitlines() if line.strip() and line.strip() != ".text"]
        if len(lines) != len(valid):
            raise FsgError(f"llvm-mc reads {len(lines)} of {len(valid)} instructions: {child.stderr.strip()[-200:]}")
        self._texts |= dict.fromkeys(new, "") | dict(zip(valid, lines, strict=True))

    def _schedule(self, keys: Sequence[tuple[tuple[int, ...], bool]]) -> None:
        source = list[str]()
        for i, (code, _) in enumerate([*keys, ((), False)]):  # the last is a nop: llvm-mca refuses to know nothing
            texts = [self._texts[word] for word in code]
            texts = [NOT_MODELLED.get(text.split()[0], text) for text in texts if text]
            source += [f"# LLVM-MCA-BEGIN {i}", *(texts or ["nop"]), f"# LLVM-MCA-END {i}"]
        child = self._run(1, MCA_OPTIONS, "\n".join(source) + "\n")
        try:
            regions = {int(region["Name"]): region["SummaryView"] for region in json.loads(child.stdout)["CodeRegions"]}
        except (ValueError, KeyError) as error:
            lines = child.stderr.strip().splitlines() or [str(error)]
            raise FsgError(f"llvm-mca for {self._core.mca} says no cycles: {lines[0]}") from error
        for i, key in enumerate(keys):
            found = regions.get(i)
            if found is None:  # it has tables for none of its instructions
                self._cycles[key] = float(len(key[0]))
                continue
            in_turn = found["TotalCycles"] / found["Iterations"]
            self._cycles[key] = in_turn if key[1] or self._core.in_order else found["BlockRThroughput"]

    def _run(self, which: int, options: Sequence[str], source: str) -> subprocess.CompletedProcess[str]:
        programs = llvm_programs()
        assert programs is not None
        command = [programs[which], f"--mcpu={self._core.mca}", *options]
        return subprocess.run(command, input=source, capture_output=True, text=True, check=False)
