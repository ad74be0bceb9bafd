"""Run as a program by test_hostile.py: damages the options of operators; a crash is the parent's to see."""

import sys

import lce
import numpy as np


def convolution(options):
    graph = lce.Graph()
    source = graph.tensor([1, 5, 5, 1], np.int32)
    weights = np.random.default_rng(0).choice([-1, 1], (3, 2, 2, 20))
    ones = np.ones(3, np.float32)
    output = graph.conv(source, lce.Conv(weights), ones, ones)
    graph.operators[0].customOptions = np.frombuffer(options, np.uint8)
    return graph.build([source], [output])


def pool(options):
    graph = lce.Graph()
    source = graph.tensor([1, 5, 5, 1], np.int32)
    output = graph.max_pool(source, (2, 2), (2, 2), 0)
    graph.operators[0].customOptions = np.frombuffer(options, np.uint8)
    return graph.build([source], [output])


def survives(model) -> bool:
    try:
        lce.run(model, np.zeros((1, 5, 5, 1), np.int32))
    except (RuntimeError, ValueError):
        return False
    return True


def main() -> None:
    rng = np.random.default_rng(int(sys.argv[1]))
    conv_options = lce.Conv(np.ones((3, 2, 2, 20))).options()
    names = ("stride_height", "stride_width", "filter_height", "filter_width", "padding")
    pool_options = lce.flexmap(**dict.fromkeys(names, 1))
    refused = ran = 0
    for build, options in ((convolution, conv_options), (pool, pool_options)):
        assert survives(build(options))
        damaged = [options[:cut] for cut in range(1, len(options))]
        damaged += [options[cut:] for cut in range(1, len(options))]
        for _ in range(300):
            flipped = np.frombuffer(options, np.uint8).copy()
            flipped[rng.integers(len(flipped), size=rng.integers(1, 4))] = rng.integers(256)
            damaged.append(flipped.tobytes())
            damaged.append(rng.bytes(rng.integers(1, 80)))
        for value in damaged:
            if survives(build(value)):
                ran += 1
            else:
                refused += 1
    print(refused, ran)


if __name__ == "__main__":
    main()
