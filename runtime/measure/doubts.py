"""What a board's own state says against trusting the times that were measured on it."""

from fsg.runtime.boards.board import Facts
from fsg.runtime.boards.devices import Device

HOT_C = 80.0  # where a Raspberry Pi begins to slow down
BUSY = 0.5  # of one core, by other programs
THROTTLING = (
    "its voltage was too low",
    "its clock was capped",
    "it was throttled",
    "it reached its soft temperature limit",
)


def doubts(before: Facts, after: Facts, device: Device, *, load: float | None = None) -> list[str]:
    """What speaks against trusting times, from a board's facts before and after; `load` is that before all runs."""
    found = []
    old, new = (facts.get("throttled") or 0 for facts in (before, after))
    # vcgencmd's bits: what is so now, and from the 16th on what was so since the board was switched on.
    bits = (old | new) & 0xF | (new & ~old) >> 16
    found += [text for bit, text in enumerate(THROTTLING) if bits >> bit & 1]
    hottest = max(facts.get("temperature_c") or 0 for facts in (before, after))
    if hottest >= HOT_C:
        found.append(f"it was hot: {hottest:.0f} °C")
    governor = after.get("governor")
    if governor not in (None, "performance"):
        found.append(f"its governor is {governor}, not performance: its clock may have changed")
    if load is not None and load > BUSY:
        found.append(f"it was busy before: load {load:.1f}")
    cpu = str(after.get("cpu") or "").lower()
    if device.core and cpu.startswith("cortex-") and device.core not in cpu:
        found.append(f"its processor is {after['cpu']}, not the {device.core} of {device.name}")
    return found
