"""The delegate's thread pool: the same results on any number of threads, and several at once."""

import threading
import time

import lce
import numpy as np
import pytest
from lce import Conv

RNG = np.random.default_rng(11)
BITS = RNG.integers(-(2**31), 2**31, (2, 40, 41, 6)).astype(np.int32)


def network() -> bytes:
    """A convolution, a quantise and a pooling, all large enough to be worth several threads."""
    conv = Conv(RNG.choice([-1, 1], (100, 3, 3, 96)), padding=0, groups=2)
    graph = lce.Graph()
    source = graph.tensor(BITS.shape, np.int32)
    values = graph.conv(source, conv, *RNG.standard_normal((2, 100)).astype(np.float32))
    bits = graph.quantize(values)
    return graph.build([source], [values, bits, graph.max_pool(bits, (3, 3), (1, 1), 0)])


MODEL = network()


@pytest.fixture(scope="module")
def expected():
    return lce.run(MODEL, BITS, kernels="scalar")


def assert_outputs(interpreter, expected):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], BITS)
    interpreter.invoke()
    for detail, values in zip(interpreter.get_output_details(), expected, strict=True):
        np.testing.assert_array_equal(interpreter.get_tensor(detail["index"]), values)


def threads_of_this_process() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_results_do_not_depend_on_the_thread_count(threads, expected):
    before = threads_of_this_process()
    interpreter = lce.interpret(MODEL, threads=threads)
    assert threads_of_this_process() - before == threads - 1
    for _ in range(5):
        assert_outputs(interpreter, expected)


def test_the_option_decides_over_the_interpreter(expected):
    before = threads_of_this_process()
    interpreter = lce.interpret(MODEL, threads=1, num_threads="5")
    assert threads_of_this_process() - before == 4
    assert_outputs(interpreter, expected)
    del interpreter
    deadline = time.monotonic() + 10
    while threads_of_this_process() != before and time.monotonic() < deadline:
        time.sleep(0.01)  # the system may count a thread that has ended for a moment longer
    assert threads_of_this_process() == before


@pytest.mark.parametrize("is_shared", [False, True])
def test_two_interpreters_with_four_threads_at_once(is_shared, expected):
    shared = lce.delegate(num_threads="4") if is_shared else None
    interpreters = [lce.interpret(MODEL, delegate=shared, num_threads="4") for _ in range(2)]
    failures = []

    def work(interpreter):
        try:
            for _ in range(20):
                assert_outputs(interpreter, expected)
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=work, args=(interpreter,)) for interpreter in interpreters]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures
