"""What `fsg bench` does: measures here or on boards; or emulates and estimates where there is no board."""

import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsg import FsgError
from fsg.runtime.boards.cores import peaks_of
from fsg.runtime.measure.estimate import estimate
from fsg.runtime.measure.local import RUNS, WARMUP, benchmark
from fsg.runtime.measure.records import Model, Record
from fsg.runtime.model.batch import write_batched
from fsg.runtime.model.files import SUFFIXES, export_doubts, exported_facts, model_format
from fsg.runtime.model.metadata import read_metadata, sizes_of
from fsg.runtime.model.operators import read_operators

if TYPE_CHECKING:
    from fsg.runtime.boards.board import Board
    from fsg.runtime.boards.devices import Device

Show = Callable[[str], object]


WORTH = 1.15
"""How much faster several threads must be, at least, to be worth naming."""


@dataclass(frozen=True)
class Ssh:
    """How to reach the boards: port, key file, options as for ssh's -o, seconds until a silent board is given up."""

    port: int | None = None
    identity: Path | None = None
    options: Sequence[str] = ()
    timeout_s: float = 60.0

    @property
    def words(self) -> list[str]:
        """The words for ssh besides the port."""
        key = ["-i", str(self.identity)] if self.identity else []
        return [*key, *(word for option in self.options for word in ("-o", option))]


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    threads: Sequence[int] = (1,)
    batches: Sequence[int] = ()  # images at once; none for what the files take
    runs: int = RUNS
    seconds: float = 0
    warmup: int = WARMUP
    cpus: Sequence[int] | None = None
    cooldown_ms: int = 0
    profile: bool = False
    runtime_lib: Path | None = None
    devices: Path | None = None  # the user's own profiles
    ssh: Ssh = field(default_factory=Ssh)


@dataclass(frozen=True)
class Outcome:
    """What came of it: records, what failed, and what people should know besides."""

    records: list[Record]
    problems: list[FsgError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def bench(models: Sequence[Model], device: "Device | None", hosts: Sequence[str], plan: Plan, show: Show) -> Outcome:
    """Measures on this machine without a device, on its boards at `hosts`, or tells what can be known without one.

    `show` is told what happens. Errors: FsgError where nothing can be measured at all; what fails for one board only is
    among the problems of the outcome.
    """
    if plan.runtime_lib and not plan.runtime_lib.is_file():
        raise FsgError(f"{plan.runtime_lib}: no such file; --runtime-lib is LiteRT's C library for the board")
    with in_batches(models, plan.batches, show) as all_models:
        if device is None:
            outcome = bench_local(all_models, plan, show)
        elif hosts:
            outcome = bench_boards(all_models, device, hosts, plan, show)
        else:
            outcome = bench_without_board(all_models, device, plan, show)
    doubts = [doubt for model in models if model.variant == "binary" for doubt in export_doubts(model.path)]
    return replace(outcome, notes=[*outcome.notes, *thread_hints(outcome.records), *doubts])


@contextmanager
def in_batches(models: Sequence[Model], batches: Sequence[int], show: Show) -> Iterator[list[Model]]:
    """The models, or each for every number of images at once, of which there are files within the block."""
    if not batches:
        yield list(models)
        return
    with tempfile.TemporaryDirectory(prefix="fsg-") as folder:
        found = []
        for number, model in enumerate(models):
            for batch in batches:
                show(f"writing {model.path} for {batch} image{'s' * (batch > 1)} at once")
                target = Path(folder) / f"{number}-{batch}{model.path.suffix}"
                write_batched(model.path, batch, target)
                found.append(replace(model, path=target, batch_of=model.path))
        yield found


def thread_hints(records: Iterable[Record]) -> list[str]:
    """Where more threads than one do not help."""
    measured = [record for record in records if record["kind"] == "measured"]
    hints = []
    for one in (record for record in measured if record["threads"] == 1):
        same = ("artefact", "device", "host", "batch")
        others = [other for other in measured if all(other.get(name) == one.get(name) for name in same)]
        best = min(others, key=lambda record: record["latency_ms"]["p50"])
        most = max(others, key=lambda record: record["threads"])
        gain = one["latency_ms"]["p50"] / best["latency_ms"]["p50"]
        if most["threads"] > 1 and gain < WORTH:
            where = f" on {one['host']}" if one.get("host") else ""
            where += f", batch {one['batch']}" if one.get("batch", 1) > 1 else ""
            what = f"{Path(one['artefact']).name}{where}: {most['threads']} threads are"
            by = f"at most {gain:.2f} times as fast as" if gain > 1 else "no faster than"
            hints.append(f"{what} {by} one: its layers are too small to be shared out")
    return hints


@contextmanager
def ending_in_good_order() -> Iterator[None]:
    """Within it a process that is told to stop (SIGTERM, SIGHUP) still runs its `finally` blocks."""

    def stop(number: int, _frame: Any) -> None:
        sys.exit(128 + number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def bench_local(models: Sequence[Model], plan: Plan, show: Show) -> Outcome:
    """Measures on this machine; .tflite files on ARM by the program that runs on boards too."""
    device, records = None, list[Record]()
    for model in models:
        if model_format(model.path) == "tflite" and platform.machine() == "aarch64":
            from fsg.runtime.boards.board import LocalBoard
            from fsg.runtime.boards.devices import find_device
            from fsg.runtime.measure.on_board import measure

            device = find_device("local", plan.devices)
            with LocalBoard(timeout_s=plan.ssh.timeout_s, runtime_lib=plan.runtime_lib) as board:
                records += measure(
                    board, [model.path], device=device, threads=plan.threads, progress=show, **_how(plan)
                )
            continue
        for threads in plan.threads:
            show(f"measuring {model.path} with {threads} thread{'s' * (threads > 1)}")
            records.append(benchmark(model.path, threads=threads, **_how(plan)))
    return Outcome(finished(records, models, device))


def bench_boards(models: Sequence[Model], device: "Device", hosts: Sequence[str], plan: Plan, show: Show) -> Outcome:
    """Measures on every board in turn. A board that fails costs its own rows only."""
    if device.runs == "c":
        raise FsgError(f"{device.name} is a microcontroller, which fsg emulates: leave --host away")
    from fsg.runtime.measure.on_board import measure

    _require(models, device)
    if (plan.ssh.port or plan.ssh.words) and any(map(is_adb, hosts)):
        raise FsgError("-p, -i and -o are for ssh: leave them away with --host adb:SERIAL")
    records: list[Record] = []
    problems, notes = list[FsgError](), list[str]()
    for host in hosts:
        show(f"connecting to {host}")
        try:
            with reach(host, plan) as board:
                records += measure(
                    board,
                    [model.path for model in models],
                    device=device,
                    threads=plan.threads,
                    progress=show,
                    **_how(plan),
                )
            if board.left_behind:
                notes.append(board.left_behind)
        except FsgError as error:
            problems.append(error)
    return Outcome(finished(records, models, device), problems, notes)


def reach(host: str, plan: Plan) -> "Board":
    """The board at a --host: a name for ssh, or adb:SERIAL for a phone that adb knows, or adb for the only one."""
    from fsg.runtime.boards.adb import AdbBoard
    from fsg.runtime.boards.ssh import SshBoard

    how: dict[str, Any] = {"timeout_s": plan.ssh.timeout_s, "runtime_lib": plan.runtime_lib}
    if is_adb(host):
        return AdbBoard(host, **how)
    return SshBoard(host, port=plan.ssh.port, options=plan.ssh.words, **how)


def is_adb(host: str) -> bool:
    """Whether --host names a phone, and no computer that ssh knows."""
    return host == "adb" or host.startswith("adb:")


def bench_without_board(models: Sequence[Model], device: "Device", plan: Plan, show: Show) -> Outcome:
    """What can be known without the hardware: an emulated record of each model, and estimates; notes say what not."""
    from fsg.runtime.boards.litert import NotFetchedError
    from fsg.runtime.measure.emulate import emulate, why_not

    _require(models, device)
    records: list[Record] = []
    if device.runs == "c":
        from fsg.runtime.measure.microcontroller import emulate_c

        for model in models:
            show(f"running {model.path} on an emulated {device.core or device.name}")
            records.append(emulate_c(model.path, device))
        return Outcome(finished(records, models, device))
    missing = why_not() if device.machine == "aarch64" else f"{device.name} is {device.machine}, and no aarch64"
    notes = [f"not emulated: {missing}"] if missing else []
    for model in models:
        how = dict[str, Any]()
        if not missing:
            show(f"running {model.path} on an emulated {device.core or 'processor'}")
            cpu = device.core or "cortex-a72"
            try:
                library = None if device.system == "android" else plan.runtime_lib  # which the emulator cannot load
                found = emulate(model.path, cpu=cpu, device=device.name, profile=plan.profile, runtime_lib=library)
            except NotFetchedError as error:
                missing = str(error)
                notes.append(f"not emulated: {missing}")
            else:
                records.append(found)
                how["instructions"] = found["instructions"]
                if "cycles" in found:
                    how["scheduled"] = found["cycles"], found["basis"]
        try:
            records += [estimate(model.path, device, threads=n, **how) for n in plan.threads]
        except FsgError as error:
            notes.append(str(error))
    notes = list(dict.fromkeys(notes))
    if not records:
        return Outcome([], [FsgError(f"nothing can be known of {device.name} here: {'; '.join(notes)}")])
    return Outcome(finished(records, models, device), notes=notes)


def finished(records: Iterable[Record], models: Sequence[Model], device: "Device | None") -> list[Record]:
    """The records with what is known of their files: variant, accuracy, ratios to the binary model, MACs of ops."""
    known = {str(model.path): model for model in models}
    records = list(records)
    for record in records:
        if record["kind"] == "measured" and record.get("ops"):
            record["ops"] = rated_ops(record, device)
    records = [_described(record, known[record["artefact"]]) for record in records]
    for record in records:
        add_ratio(record, records)
    return records


def _described(record: Record, model: Model) -> Record:
    path = model.batch_of or model.path
    facts = exported_facts(path) | _baseline_facts(model)
    more = {"baseline_of": str(model.baseline_of)} if model.baseline_of else {}
    return {**record, "artefact": str(path), **sizes_of(path), "variant": model.variant, **more, **facts}


def _baseline_facts(model: Model) -> dict[str, Any]:
    """Accuracy of a twin, as its exporter found it and wrote into the file."""
    if model.baseline_of is None:
        return {}
    metadata = read_metadata(model.path)
    verify = metadata.get("verify", {})
    return {"accuracy": verify["accuracy"], "dataset": metadata["dataset"]} if "accuracy" in verify else {}


def add_ratio(record: Record, records: Iterable[Record]) -> None:
    """Puts `times_as_long` into a measured twin: its median over the binary model's, same board, same threads."""
    if record["kind"] != "measured" or "baseline_of" not in record:
        return
    same = ("device", "host", "threads", "batch", "kind")
    for other in records:
        if other["artefact"] == record["baseline_of"] and all(other.get(name) == record.get(name) for name in same):
            record["times_as_long"] = round(record["latency_ms"]["p50"] / other["latency_ms"]["p50"], 4)


def rated_ops(record: Record, device: "Device | None") -> list[Record]:
    """The ops of a profile with share of the time, MACs, GMAC/s, and which part of the core's ceiling that is.

    An op that says its MACs is believed; others are found in the file by their kind and the name of what they
    compute. The ceiling is that of all threads, and only known for a core whose peaks are.
    """
    layers = {(layer.kind, layer.name): layer for layer in read_operators(record["artefact"])}
    total = sum(_microseconds(op) for op in record["ops"])
    core, ghz = None, 0.0  # of all the threads together
    if device and device.clock_ghz and device.cores:
        core, ghz = peaks_of(device.core), device.clock_ghz * min(record["threads"], device.cores)
    rated = []
    for op in record["ops"]:
        time, layer = _microseconds(op), layers.get((op["kind"], op["name"]))
        row = {"name": op["name"], "kind": op["kind"], "us": round(time, 3), "share": round(time / (total or 1.0), 5)}
        macs = {name: op.get(name, getattr(layer, name, 0)) for name in ("binary_macs", "float_macs", "int8_macs")}
        row |= {name: count for name, count in macs.items() if count}
        if "stretch_us" in op:
            row["stretch_us"] = round(op["stretch_us"], 3)
        if any(macs.values()) and time:
            row["gmacs_per_s"] = round(sum(macs.values()) / time / 1e3, 3)
            if core:
                row["ceiling_share"] = round(core.mac_cycles(**macs) / (ghz * 1e3) / time, 5)
        rated.append(row)
    return rated


def _microseconds(op: Record) -> float:
    return float(op["us"][0] if isinstance(op["us"], list) else op["us"])


def _how(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in ("runs", "seconds", "warmup", "cpus", "cooldown_ms", "profile")}


def _require(models: Sequence[Model], device: "Device") -> None:
    for model in models:
        if model_format(model.path) != device.runs:
            what = f"{device.name} runs {SUFFIXES[device.runs]} files"
            raise FsgError(f"{model.path}: {what}; write one with `fsg export --format {device.runs}`")


def add_accuracy(records: Sequence[Record], accuracies: dict[Path, float], dataset: str) -> None:
    """Puts the accuracy of each model on a data set into its records."""
    known = {str(path): accuracy for path, accuracy in accuracies.items()}
    for record in records:
        record |= {"accuracy": known[record["artefact"]], "dataset": dataset}
