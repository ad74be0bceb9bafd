"""What a model might take on a board that is not here: from counts and published figures, always as a range.

An estimate adds up what the processor and the memory need at their best, the ideal:

    cycles = multiply-accumulates / the core's peak + 2 instructions for each element / the core's best rate
             or, where the file was emulated: the cycles of the code that ran, as schedule.py has them of llvm-mca, or
             instructions / the best rate, but no less than multiply-accumulates / peak
    ideal = cycles / (clock x threads) + bytes / bandwidth          threads share the cycles but not the memory
    expected = ideal / EFFICIENCY
    range = from ideal to ideal / EFFICIENCY^2; to ideal / EFFICIENCY^4 on another core than that of the figures below;
            with llvm-mca's cycles from the ideal without them, for they are a model's and no bound

EFFICIENCY is the only number that is fitted: to what Larq Compute Engine (LCE) takes for its networks on a Raspberry
Pi 4, six published figures. That is another runtime than fsg's, and no board has run fsg's yet. The estimate assumes
that fsg's comes about as close to the ideal; that nothing is faster than the ideal; and that fsg's falls short of what
is expected by at most as much as that falls short of the ideal, three times as much where the core is another.

Of the networks of those figures only the counts are known, not the code that LCE runs: EFFICIENCY is fitted to counts
alone. Cycles of llvm-mca take its place in the ideal without a fit of their own. They hold some of what the fit is for,
such as operators that wait for each other, so that what is expected of them is rather too long than too short; with one
core's figures in hand that cannot be told apart, and the range gets no narrower. Nor does it by how well the figures
foretell each other, each network within 6 % from the other two: that is how much LCE resembles itself.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fsg import FsgError
from fsg.runtime.boards.cores import cores, peaks_of
from fsg.runtime.measure.records import Estimated, Record, as_record
from fsg.runtime.model.files import model_format
from fsg.runtime.model.operators import Operator, read_operators
from fsg.runtime.model.tflite import images_at_once

ELEMENT_BYTES = 4  # of float32, which most of what is between the layers is
ELEMENT_INSTRUCTIONS = 2.0
"""For each number that a layer reads or writes, beside the products: fsg's program under emulation executes 1.9 in
QuickNet and 2.3 in ResNet-20 after 3.3 for 128 binary products and 1.7 for four float ones, as its inner loops have."""


class DeviceFigures(Protocol):
    """What an estimate wants to know of a device: `core` as cores.toml names it, clock, sustained bandwidth.

    None, or an empty core, is what nobody knows.
    """

    @property
    def name(self) -> str: ...
    @property
    def core(self) -> str: ...
    @property
    def clock_ghz(self) -> float | None: ...
    @property
    def cores(self) -> int | None: ...
    @property
    def l2_kb(self) -> float | None: ...
    @property
    def memory_gb_s(self) -> float | None: ...


@dataclass(frozen=True)
class Published:
    """A network's latency as its authors measured it, with what it computes as `read_operators` counts it."""

    network: str
    binary_macs: float
    float_macs: float
    elements: float
    weight_bytes: float
    threads: int
    latency_ms: float

    @property
    def layer(self) -> Operator:
        """The whole network as one layer."""
        counts = (self.binary_macs, self.float_macs, 0, self.weight_bytes, self.elements)
        return Operator(self.network, "", (), *map(round, counts))


@dataclass(frozen=True)
class PublishedBoard:
    """The Raspberry Pi 4B of LCE's figures; its bandwidth is that of rpi4 in devices.toml."""

    name: str = "rpi4"
    core: str = "cortex-a72"
    clock_ghz: float = 1.5
    cores: int = 4
    l2_kb: float = 1024
    memory_gb_s: float = 4.7


PUBLISHED = tuple(
    Published(network, binary * 1e6, floats * 1e6, elements * 1e6, weights * 1e6, threads, latency)
    for network, binary, floats, elements, weights, latencies in (
        ("QuickNetSmall", 1156.1, 15.9, 5.90, 4.19, (27.7, 12.1)),
        ("QuickNet", 1849.7, 29.6, 9.87, 4.36, (45.0, 20.8)),
        ("QuickNetLarge", 3699.4, 29.6, 16.22, 5.65, (77.0, 31.7)),
    )
    for threads, latency in zip((1, 4), latencies, strict=True)
)
"""LCE's figures on a Raspberry Pi 4B: https://docs.larq.dev/zoo/api/sota/."""


def fit_efficiency(figures: Iterable[Published] = PUBLISHED) -> float:
    """Which share of the time published is the ideal: the geometric mean over `figures`."""
    shares = []
    for figure in figures:
        ideal = ideal_seconds([figure.layer], PublishedBoard(), figure.threads) * 1e3
        shares.append(math.log(ideal / figure.latency_ms))
    return math.exp(sum(shares) / len(shares))


def ideal_seconds(
    layers: Sequence[Operator],
    device: DeviceFigures,
    threads: int,
    instructions: int | None = None,
    cycles: float | None = None,
) -> float:
    """What an inference takes at least: arithmetic at the core's peak and memory at the device's bandwidth.

    Raises:
        FsgError: the profile does not say enough.
    """
    core = peaks_of(device.core)
    if core is None:
        name = f"the core {device.core}" if device.core else "an unknown core"
        known = [core.name for core in cores().values() if core.peaks]
        raise FsgError(f"no estimate for {device.name}: it has {name}; known are {', '.join(known)}")
    if not (device.clock_ghz and device.cores and device.l2_kb and device.memory_gb_s):
        raise FsgError(
            f"no estimate for {device.name}: its profile lacks one of clock_ghz, cores, l2_kb and memory_gb_s; give"
            " them in a file with --devices"
        )
    macs = {name: sum(getattr(layer, name) for layer in layers) for name in ("binary_macs", "float_macs", "int8_macs")}
    least = core.mac_cycles(**macs)
    if cycles is None and instructions is not None:
        cycles = instructions / core.instructions
    if cycles is None:
        cycles = least + ELEMENT_INSTRUCTIONS * sum(layer.elements for layer in layers) / core.instructions
    cycles = max(cycles, least)
    from_memory = memory_bytes(layers, device.l2_kb * 1024)
    return cycles / (device.clock_ghz * 1e9 * min(threads, device.cores)) + from_memory / (device.memory_gb_s * 1e9)


def memory_bytes(layers: Sequence[Operator], cache_bytes: float) -> int:
    """What has to come from and go to the memory: nothing where all weights and the largest layer's values fit a cache.

    Else everything: by the time a layer's weights are needed again, the other layers have taken their place.
    """
    values = [ELEMENT_BYTES * layer.elements for layer in layers]
    weights = sum(layer.weight_bytes for layer in layers)
    return weights + sum(values) if weights + max(values, default=0) > cache_bytes else 0


def estimate(
    path: str | Path,
    device: DeviceFigures,
    *,
    threads: int = 1,
    instructions: int | None = None,
    scheduled: tuple[float, str] | None = None,
) -> Record:
    """A record of kind "estimated": latency_ms {low, expected, high}, basis, and what was counted.

    Args:
        path: the .tflite file.
        device: its profile.
        threads: those beyond the device's cores are of no use.
        instructions: for one image on such a core, if they were counted.
        scheduled: cycles for one image on the core, if they are known, and whose they are; they count instead.

    Raises:
        FsgError: a file that cannot be read, or a core whose peaks are not known.
    """
    layers, batch = read_operators(path), images_at_once(path)
    latency = estimate_range(
        layers,
        device,
        threads=threads,
        instructions=None if instructions is None else instructions * batch,
        cycles=None if scheduled is None else scheduled[0] * batch,
    )
    if scheduled is not None:
        counted = f"{scheduled[0] / 1e6:.1f} M cycles, {scheduled[1]}"
    else:
        count = (
            "multiply-accumulates and elements" if instructions is None else f"{instructions / 1e6:.1f} M instructions"
        )
        counted = f"{count} at the peak of {device.core}"
    found = Estimated(
        artefact=str(path),
        format=model_format(path),
        device=device.name,
        threads=threads,
        batch=batch,
        latency_ms={name: round(value / batch, 4) for name, value in latency.items()},
        basis=(
            f"{counted}, {device.clock_ghz} GHz, and bytes at {device.memory_gb_s} GB/s;"
            f" the best is {fit_efficiency():.0%} of what LCE's networks take on a Raspberry Pi 4"
        ),
        binary_macs=sum(layer.binary_macs for layer in layers),
        float_macs=sum(layer.float_macs for layer in layers),
        int8_macs=sum(layer.int8_macs for layer in layers),
        size_bytes=Path(path).stat().st_size,
    )
    return as_record(found)


def estimate_range(
    layers: Sequence[Operator],
    device: DeviceFigures,
    *,
    threads: int = 1,
    instructions: int | None = None,
    cycles: float | None = None,
    efficiency: float | None = None,
) -> dict[str, float]:
    """Milliseconds {low, expected, high} of an inference; `efficiency` is that of all published figures by default."""
    share = fit_efficiency() if efficiency is None else efficiency
    ideal = ideal_seconds(layers, device, threads, instructions, cycles) * 1e3
    low = ideal if cycles is None else min(ideal, ideal_seconds(layers, device, threads, instructions) * 1e3)
    doubt = 2 if device.core == PublishedBoard.core else 4
    return {"low": low, "expected": ideal / share, "high": ideal / share**doubt}
