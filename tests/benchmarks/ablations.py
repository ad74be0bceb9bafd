"""Writes what `docs/results.md` takes away from a hypernetwork: python tests/benchmarks/ablations.py FILE FOLDER

no-history.json     sees nothing of a layer's past            mirrored.json    takes the last layer for the first
no-embedding.json   does not know the layer                   constant.json    the same output for all layers and steps
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fsg.training.methods.hyperfile import INPUTS, SEEN, Hypernetwork, read_hypernetwork, save_hypernetwork

PAST = [name.split("@")[0] in SEEN for name in INPUTS]
KIND = [name in ("depth", "fan_in") for name in INPUTS]
FACTORS = {
    "no-history": np.where(PAST, 0.0, 1.0),
    "no-embedding": np.where(KIND, 0.0, 1.0),
    "mirrored": np.where([name == "depth" for name in INPUTS], -1.0, 1.0),
    "constant": np.where([name in ("constant", "length", "one_bit") for name in INPUTS], 1.0, 0.0),
}
"""What each input's weights are multiplied with. Inputs are about 0 on the average, so the outputs' means stay."""


def without(net: Hypernetwork, what: str) -> Hypernetwork:
    rows = (np.array(net.weights) * FACTORS[what]).tolist()
    return replace(net, weights=tuple(map(tuple, rows)), made={**net.made, "ablation": what})


if __name__ == "__main__":
    source, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for what in FACTORS:
        save_hypernetwork(without(read_hypernetwork(source), what), folder / f"{what}.json")
