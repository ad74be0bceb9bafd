"""Records of `fsg bench` of every kind, as its parts give them before they are finished, and the schema."""

import json
from pathlib import Path

import jsonschema
import lce
import numpy as np

import fsg

SCHEMA = json.loads((Path(fsg.__file__).parent / "runtime" / "measure" / "record_schema.json").read_text())
LATENCY = {"min": 1.25, "p50": 1.5, "p90": 1.75, "p99": 2.125, "mean": 1.5625, "std": 0.1875}


def validate(records):
    """Raises jsonschema.ValidationError where the records are not what the schema promises."""
    jsonschema.Draft202012Validator(SCHEMA).validate(records)


def model_file(path):
    """A .tflite file with one binary convolution, 256 * 64 * 9 * 64 multiply-accumulates, and an addition."""
    graph = lce.Graph()
    source = graph.tensor([1, 16, 16, 64])
    conv = lce.Conv(np.random.default_rng(0).choice([-1, 1], (64, 3, 3, 64)), padding=0)
    ones = np.ones(64, np.float32)
    output = graph.conv(graph.quantize(source), conv, ones, ones)
    path.write_bytes(graph.build([source], [graph.builtin("ADD", [source, output], [1, 16, 16, 64])]))
    return path


def measured(path, *, host="pi@desk", device="rpi4", threads=1, factor=1.0, ops=False):
    """What remote.measure gives for a board."""
    record = {
        "artefact": str(path),
        "format": "tflite",
        "device": device,
        "kind": "measured",
        "threads": threads,
        "runs": 40,
        "warmup": 10,
        "cpus": None,
        "cooldown_ms": 0,
        "latency_ms": {name: value * factor for name, value in LATENCY.items()},
        "first_run_ms": 7.25,
        "size_bytes": Path(path).stat().st_size,
        "peak_rss_bytes": 21_000_192,
        "base_rss_bytes": 9_000_448,
        "cpu": "Cortex-A72",
        "kernels": "neon-a72",
        "host": host,
        "facts": {"before": {"temperature_c": 48.5, "governor": "ondemand"}, "after": {"temperature_c": 53.25}},
        "warnings": ["the governor is ondemand, not performance"],
        "fsg_version": fsg.__version__,
    }
    return {**record, "ops": OPS} if ops else record


OPS = [
    {"name": "t1", "kind": "LceQuantize", "us": [75.0]},
    {"name": "t2", "kind": "LceBconv2d", "us": [1350.0]},
    {"name": "t6", "kind": "ADD", "us": [50.0]},
]


def emulated(path):
    """What emulate.emulate gives."""
    return {
        "artefact": str(path),
        "format": "tflite",
        "kind": "emulated",
        "fsg_version": fsg.__version__,
        "cpu": "cortex-a72",
        "kernels": "neon-a72",
        "bit_exact": True,
        "differing": 0,
        "instructions": 3_456_789,
        "cycles": 1_800_000,
        "basis": "the executed code as llvm-mca schedules it for cortex-a72",
        "ops": [
            {"name": "LceBconv2d", "kind": "fsg", "instructions": 3_210_987, "share": 0.92889}
            | {"cycles": 1_700_000, "time_share": 0.94444, "binary_macs": 9_437_184},
            {"name": "LiteRT and fsg between operators", "kind": "rest", "instructions": 245_802, "share": 0.07111}
            | {"cycles": 100_000, "time_share": 0.05556},
        ],
    }
