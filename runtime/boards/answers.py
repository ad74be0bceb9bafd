"""What must hold of the answers of the program that runs on boards."""

import math
from collections.abc import Callable
from typing import Any


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_times(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(_is_time, value))


def _are_ops(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(op, dict) and {"name", "kind", "us"} <= op.keys() for op in value)


def _are_partitions(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= -1 for number in value)


def _are_bits(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


Rules = dict[str, Callable[[Any], bool]]
# What must hold of fields of the program's answers; others are passed on as they are. A fact may be unknown.
ANSWER: Rules = {
    "times_us": _are_times,
    "first_us": _is_time,
    "peak_rss_bytes": _is_count,
    "base_rss_bytes": _is_count,
    "kernels": _is_text,
    "energy_mj": lambda value: value is None or _is_number(value),
}
PROFILE: Rules = {"ops": _are_ops, "partitions": _are_partitions}
FACTS: Rules = {
    **dict.fromkeys(("model", "cpu", "governor", "glibc"), _is_text),
    **dict.fromkeys(("cores", "max_clock_mhz", "temperature_c", "load", "memory_free_bytes"), _is_number),
    "throttled": _are_bits,
}
