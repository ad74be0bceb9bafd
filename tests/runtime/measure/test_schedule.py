"""Basic blocks of emulated programs: how they are read, which are loops, and the cycles that llvm-mca has for them."""

from collections import Counter
from dataclasses import replace

import pytest

from fsg import FsgError
from fsg.runtime.boards.cores import cores
from fsg.runtime.measure import schedule
from fsg.runtime.measure.emulated_ops import Costs
from fsg.runtime.measure.schedule import Scheduler, llvm_programs
from fsg.runtime.measure.trace import Block, Trace, read_trace

needs_llvm = pytest.mark.skipif(llvm_programs() is None, reason="needs llvm-mca 19: apt-get install llvm-19")

FMLA, NOP, RET, UDF, INVALID = 0x4E22CC20, 0xD503201F, 0xD65F03C0, 0, 0xFFFFFFFF  # fmla v0.4s, v1.4s, v2.4s
BACK = {  # to three instructions before
    "b": 0x17FFFFFD,
    "b.ne": 0x54FFFFA1,
    "cbnz": 0xB5FFFFA0,
    "tbz": 0x3607FFA0,
}
A72, A53 = cores()["cortex-a72"], cores()["cortex-a53"]


def test_a_trace_is_read(tmp_path):
    path = tmp_path / "trace"
    path.write_text("b 0 4010a0 d503201fd65f03c0\nx 0 2\nm\nb 1 4010b0 d503201f\nx 0 1\nx 1 7\nm\n")
    trace = read_trace(path)
    assert trace.blocks == [Block(0x4010A0, (NOP, RET)), Block(0x4010B0, (NOP,))]
    assert trace.intervals == [Counter({0: 2}), Counter({0: 1, 1: 7}), Counter()]
    assert [trace.instructions(interval) for interval in trace.intervals] == [4, 9, 0]
    for text in ("b 0 xyz d503201f\n", "x 0\n"):
        path.write_text(text)
        with pytest.raises(FsgError, match="has written no trace"):
            read_trace(path)


@pytest.mark.parametrize("branch", BACK)
def test_a_block_that_branches_to_its_beginning_is_a_loop(branch):
    assert Block(0x1000, (NOP, NOP, NOP, BACK[branch])).is_loop
    assert not Block(0x1000, (NOP, NOP, BACK[branch])).is_loop  # to what is before it
    assert not Block(0x1000, (NOP, NOP, NOP, RET)).is_loop


def cycles(core, *blocks, times=None):
    numbers = Counter(dict(enumerate(times or [1] * len(blocks))))
    (found,) = Scheduler(core).cycles(Trace(blocks, [numbers]), [numbers])
    return found


@needs_llvm
def test_a_loop_waits_for_itself_and_other_blocks_do_not():
    loop, line = Block(0x1000, (FMLA, NOP, NOP, BACK["b.ne"])), Block(0x1000, (FMLA, NOP, NOP, RET))
    assert cycles(A72, loop, times=[1000]) == pytest.approx(4000, rel=0.3)  # what a multiply-add waits for a sum
    assert cycles(A72, line, times=[1000]) < 2500
    in_order = cycles(A53, loop, times=[1000])
    assert in_order > 4000 and cycles(A53, line, times=[1000]) == pytest.approx(in_order, rel=0.15)


@needs_llvm
def test_rare_blocks_and_unknown_instructions_take_the_average():
    line = Block(0x1000, (FMLA, FMLA, FMLA, FMLA))
    each = cycles(A72, line)
    assert each == pytest.approx(4)
    rare = Block(0x2000, (NOP, NOP))
    assert cycles(A72, line, rare, times=[10_000, 1]) == pytest.approx(10_000 * each + each / 2)
    assert cycles(A72, Block(0x1000, (FMLA, INVALID, FMLA))) == pytest.approx(2)
    assert cycles(A72, line, Block(0x3000, (FMLA, RET)), times=[0, 0]) == 0
    assert cycles(cores()["cortex-a76"], Block(0x1000, (UDF, UDF))) == 2


def test_without_llvm_or_tables_the_best_rate_counts(monkeypatch):
    trace = Trace([Block(0x1000, (NOP,) * 22)], [Counter({0: 10})])
    monkeypatch.setattr(schedule, "llvm_programs", lambda: None)
    costs = Costs(A72)
    assert not costs.is_scheduled and costs.basis == "2.2 instructions in a cycle of cortex-a72"
    assert costs.of(trace, trace.intervals) == [{"instructions": 220, "cycles": pytest.approx(100)}]
    unknown = Costs(replace(A72, peaks=None))
    assert unknown.basis is None and unknown.of(trace, trace.intervals) == [{"instructions": 220}]
