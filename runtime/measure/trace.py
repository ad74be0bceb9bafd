"""Which basic blocks an emulated program ran, and when: what native/emulator/count_instructions.c writes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fsg import FsgError

INSTRUCTION_BYTES = 4


@dataclass(frozen=True)
class Block:
    """Instructions that run one after another, `code` one word for each."""

    address: int
    code: tuple[int, ...]

    @cached_property
    def is_loop(self) -> bool:
        """Whether it ends in a branch to its own beginning."""
        last = self.address + INSTRUCTION_BYTES * (len(self.code) - 1)
        distance = _branch_words(self.code[-1])
        return distance is not None and last + INSTRUCTION_BYTES * distance == self.address


@dataclass(frozen=True)
class Trace:
    """Blocks, and how often each ran, by its number, between two marks."""

    blocks: Sequence[Block]
    intervals: Sequence[Counter[int]]

    def instructions(self, interval: Counter[int]) -> int:
        """Executed ones."""
        return sum(len(self.blocks[number].code) * times for number, times in interval.items())


def read_trace(path: Path) -> Trace:
    """The trace of a program that has ended; FsgError where it is none."""
    blocks, intervals = list[Block](), [Counter[int]()]
    try:
        with path.open(encoding="ascii") as lines:
            for line in lines:
                kind, *values = line.split()
                if kind == "b":
                    code = (int(values[2][i : i + 8], 16) for i in range(0, len(values[2]), 8))
                    blocks.append(Block(int(values[1], 16), tuple(code)))
                elif kind == "x":
                    intervals[-1][int(values[0])] += int(values[1])
                else:
                    intervals.append(Counter())
    except (OSError, ValueError, IndexError) as error:
        raise FsgError(f"{path}: the emulator has written no trace ({error}); run `make setup`") from error
    return Trace(blocks, intervals)


def total(intervals: Iterable[Counter[int]]) -> Counter[int]:
    """All of them together."""
    result = Counter[int]()
    for interval in intervals:
        result.update(interval)
    return result


def _branch_words(word: int) -> int | None:
    """How many instructions a direct branch goes forward; None for another instruction."""
    if word & 0xFC000000 == 0x14000000:  # b
        first, bits = 0, 26
    elif word & 0xFF000010 == 0x54000000 or word & 0x7E000000 == 0x34000000:  # b.cond, cbz, cbnz
        first, bits = 5, 19
    elif word & 0x7E000000 == 0x36000000:  # tbz, tbnz
        first, bits = 5, 14
    else:
        return None
    distance = word >> first & (1 << bits) - 1
    return distance - (1 << bits) if distance >> (bits - 1) else distance
