"""Records of `fsg bench` of every kind, as its parts give them before they are finished, and the schema."""

import json
from pathlib import Path

import jsonschema
import lce
import numpy as np
from ai_edge_litert.schema_py_generated import Padding

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


def mixed_file(path):
    """A .tflite file with PAD, CONV_2D, CONV_2D; a binary convolution of signs; CONV_2D, MAX_POOL_2D."""
    rng, graph = np.random.default_rng(0), lce.Graph()

    def convolution(source, kernel, channels):
        filters = [graph.constant(rng.standard_normal(shape, np.float32)) for shape in ((64, *kernel, channels), (64,))]
        how = {"padding": Padding.VALID, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
        return graph.builtin("CONV_2D", [source, *filters], [1, 8, 8, 64], **how)

    source = graph.tensor([1, 8, 8, 4])
    border = graph.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    stem = convolution(graph.builtin("PAD", [source, border], [1, 10, 10, 4]), (3, 3), 4)
    signs = graph.quantize(convolution(stem, (1, 1), 64))
    binary = lce.Conv(rng.choice([-1, 1], (64, 3, 3, 64)), padding=0)
    ones = np.ones(64, np.float32)
    head = convolution(graph.conv(signs, binary, ones, ones), (1, 1), 64)
    window = {"padding": Padding.VALID, "strideH": 8, "strideW": 8, "filterHeight": 8, "filterWidth": 8}
    result = graph.builtin("MAX_POOL_2D", [head], [1, 1, 1, 64], **window)
    path.write_bytes(graph.build([source], [result]))
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


def emulated(path, *, profile=False):
    """What emulate.emulate gives where llvm-mca is missing."""
    record = {
        "artefact": str(path),
        "format": "tflite",
        "kind": "emulated",
        "fsg_version": fsg.__version__,
        "cpu": "cortex-a72",
        "kernels": "neon-a72",
        "bit_exact": True,
        "differing": 0,
        "instructions": 3_456_789,
    }
    return {**record, **EMULATED_PROFILE} if profile else record


EMULATED_PROFILE = {
    "cycles": 1_800_000,
    "basis": "the executed code as llvm-mca schedules it for cortex-a72",
    "ops": [
        {"name": "LceBconv2d", "kind": "fsg", "instructions": 3_210_987, "share": 0.92889}
        | {"cycles": 1_700_000, "time_share": 0.94444, "binary_macs": 9_437_184},
        {"name": "CONV_2D", "kind": "rest", "instructions": 200_000, "share": 0.05786, "stretch_instructions": 245_802}
        | {"cycles": 80_000, "time_share": 0.04444, "float_macs": 250_000},
        {"name": "LiteRT and fsg between operators", "kind": "rest", "instructions": 45_802, "share": 0.01325}
        | {"cycles": 20_000, "time_share": 0.01111},
    ],
}
