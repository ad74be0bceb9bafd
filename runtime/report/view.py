"""Bench records in words: their rows, units, names, notes and warnings."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fsg.runtime.measure.records import Record
from fsg.runtime.model.exported import times_smaller

LEFT = ("file", "board", "kind", "time", "operator", "output of", "class", "taken for")
"""Columns of text; the others are of numbers."""


def rows(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, a row for each record; a column that no record fills is left out.

    A measured record has its median in "median", an estimated one its range, marked as such, in "time"; an emulated one
    has no time at all.
    """
    boards = len({board_name(record) for record in records}) > 1
    twins = any("baseline_of" in record for record in records)  # whose size says how much smaller the binary one is
    measured = [record for record in records if record["kind"] == "measured"]
    shows_throughput = any(record.get("batch", 1) > 1 or record.get("seconds") for record in measured)
    batches = {1, *(record.get("batch", 1) for record in records)}
    columns: dict[str, Callable[[Record], str]] = {
        "file": file_name,
        "board": lambda record: board_name(record) if boards else "",
        "threads": lambda record: str(record.get("threads", "")),
        "batch": lambda record: str(record.get("batch", 1)) if batches > {1} else "",
        "median": lambda record: _latency(record, "p50"),
        "p90": lambda record: _latency(record, "p90"),
        "p99": lambda record: _latency(record, "p99"),
        "images/s": lambda record: (
            _per_second(record["images_per_s"]) if shows_throughput and "images_per_s" in record else ""
        ),
        "time": estimated_range,
        "bit-exact": bit_exact,
        "instructions": lambda record: millions(record["instructions"]) if "instructions" in record else "",
        "flash": lambda record: size(record["flash_bytes"]) if "flash_bytes" in record else "",
        "RAM": lambda record: size(record["ram_bytes"]) if "ram_bytes" in record else "",
        "size": lambda record: size(record["size_bytes"]) if "size_bytes" in record else "",
        "memory": lambda record: size(record["peak_rss_bytes"]) if "peak_rss_bytes" in record else "",
        "energy": lambda record: f"{record['energy_mj']:.3g} mJ" if record.get("energy_mj") is not None else "",
        "takes": lambda record: f"{record['times_as_long']:.2f}x" if "times_as_long" in record else "",
        "smaller": lambda record: "" if twins else _smaller(record),
        "accuracy": lambda record: f"{record['accuracy']:.2%}" if "accuracy" in record else "",
        "kind": lambda record: record["kind"],
    }
    cells = {name: [cell(record) for record in records] for name, cell in columns.items()}
    filled = [name for name, column in cells.items() if any(column)]
    return filled, [[cells[name][i] for name in filled] for i in range(len(records))]


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.4g}"


def profile_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a profile: each operator's time, share, binary MACs, rate and part of the ceiling.

    Of an emulated one: instructions, their share, the estimated share of the time, binary MACs, MACs per instruction.
    """
    if record["kind"] == "emulated":
        return _emulated_rows(record)
    headings = ["operator", "kind", "us", "share", "binary MACs", "GMAC/s", "of ceiling"]
    cells = [
        [
            short_name(op["name"]),
            op["kind"],
            f"{'~' if 'stretch_us' in op else ''}{op['us']:.1f}",
            f"{op['share']:.1%}",
            millions(op["binary_macs"]) if op.get("binary_macs") else "",
            f"{op['gmacs_per_s']:.1f}" if op.get("gmacs_per_s") else "",
            f"{op['ceiling_share']:.0%}" if "ceiling_share" in op else "",
        ]
        for op in record["ops"]
    ]
    return _used(headings, cells)


def _emulated_rows(record: Record) -> tuple[list[str], list[list[str]]]:
    headings = ["operator", "kind", "instructions", "share", "time, estimated", "binary MACs", "MACs/instr."]
    cells = []
    for op in record["ops"]:
        macs = sum(op.get(name, 0) for name in ("binary_macs", "float_macs", "int8_macs"))
        cells.append(
            [
                short_name(op["name"]),
                op["kind"],
                f"{'~' if 'stretch_instructions' in op else ''}{op['instructions']:,}",
                f"{op['share']:.1%}",
                f"{op['time_share']:.1%}" if "time_share" in op else "",
                millions(op["binary_macs"]) if op.get("binary_macs") else "",
                f"{macs / op['instructions']:.2f}" if macs and op["instructions"] else "",
            ]
        )
    return _used(headings, cells)


def _used(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns that are empty."""
    used = [i for i in range(len(headings)) if any(row[i] for row in cells)]
    return [headings[i] for i in used], [[row[i] for i in used] for row in cells]


def profile_note(record: Record) -> str:
    """How much of the median the operators add up to, which times are shares, and what the ceiling is.

    Of an emulated profile: what its figures are and are not.
    """
    if record["kind"] == "emulated":
        return _emulated_note(record)
    batch = record.get("batch", 1)
    total = sum(op["us"] for op in record["ops"]) / 1e3 / batch
    image = f" for each of the {batch} images" if batch > 1 else ""
    text = f"together {milliseconds(total)} ms{image}, {total / record['latency_ms']['p50']:.0%} of the median"
    if any("stretch_us" in op for op in record["ops"]):
        text += "; ~: share of the measured time of several operators in a row, as each takes as a model of its own"
    if any("ceiling_share" in op for op in record["ops"]):
        text += (
            "; ceiling: the multiply-accumulates that the core can do at its peak, see fsg/runtime/boards/cores.toml"
        )
    return text


def _emulated_note(record: Record) -> str:
    total = sum(op["instructions"] for op in record["ops"]) / record.get("batch", 1)
    text = f"together {millions(total)} instructions, {total / record['instructions']:.1%} of an inference's"
    if any("stretch_instructions" in op for op in record["ops"]):
        text += "; ~: share of those of several operators in a row, as each executes as a model of its own"
    if any("time_share" in op for op in record["ops"]):
        text += f"; time, estimated: share of the cycles, {record['basis']}; it leaves out memory and is no latency"
    return text


def flatten(record: Record, prefix: str = "") -> Record:
    """Nested objects as one, their keys joined by dots; lists of numbers and texts as text, other lists left out."""
    flat: Record = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[prefix + name] = value
        elif not any(isinstance(item, (dict, list)) for item in value):
            flat[prefix + name] = "; ".join(map(str, value))
    return flat


def warnings(records: Iterable[Record]) -> list[str]:
    """What the boards' own state says against trusting their figures, each once."""
    texts = (f"{board_name(record)}: {text}" for record in records for text in record.get("warnings") or ())
    return list(dict.fromkeys(texts))


def file_name(record: Record) -> str:
    """The name of the model file; of a twin, what it is of the model above it."""
    return f"as {record['variant']}" if "baseline_of" in record else Path(record["artefact"]).name


def estimated_range(record: Record) -> str:
    """ "~31-45 ms estimated" for an estimated record, else nothing."""
    if record["kind"] != "estimated":
        return ""
    low, high = record["latency_ms"]["low"], record["latency_ms"]["high"]
    digits = 0 if low >= 10 else 1 if low >= 1 else 2
    return f"~{low:.{digits}f}-{high:.{digits}f} ms estimated"


def bit_exact(record: Record) -> str:
    """Whether an emulated record's fast kernels gave the bits of the plain loops."""
    if record["kind"] != "emulated":
        return ""
    return "yes" if record["bit_exact"] else f"no, {record['differing']} differ"


def title(records: Sequence[Record]) -> str:
    if any(record["kind"] == "measured" for record in records):
        return f"Time for one image on {', '.join(dict.fromkeys(map(_machine, records)))}"
    devices = ", ".join(dict.fromkeys(record["device"] for record in records))
    return f"Without a board: what can be known of {devices}"


def notes(records: Sequence[Record]) -> list[str]:
    """What the columns mean, and what the figures stand on."""
    measured = [record for record in records if record["kind"] == "measured"]
    known = [record for record in records if "accuracy" in record]
    at_once = any(record.get("batch", 1) > 1 for record in records)
    texts = []
    if measured:
        runs = " or ".join(str(n) for n in dict.fromkeys(record["runs"] for record in measured))
        texts.append(f"median, p90, p99: milliseconds of {runs} runs; memory: peak of the process")
    if at_once:
        texts.append("batch: images of one inference; its time is shared out among them")
    if any("times_as_long" in record for record in records):
        texts.append("takes: median over that of the binary model, on as many threads of the same board")
    emulated = [record["format"] for record in records if record["kind"] == "emulated"]
    if "c" in emulated:
        texts.append(
            "emulated: bits of the same C on this machine, instructions of one inference; flash: constants and code;"
            " RAM: arena and stack, beside image and result; never a time"
        )
    if set(emulated) - {"c"}:
        texts.append(
            "emulated: bits of the fast kernels against the plain loops', instructions for one image; never a time"
        )
    texts += dict.fromkeys(f"estimated: {record['basis']}" for record in records if record["kind"] == "estimated")
    if known:
        sets = ", ".join(dict.fromkeys(record["dataset"] for record in known))
        texts.append(f"accuracy: on the test images of {sets}, computed on the host")
    if "smaller" in rows(records)[0]:
        larger = any(record["size_bytes"] > record["float_size_bytes"] for record in records if _smaller(record))
        texts.append(f"smaller: than the float32 weights{'; below 1x it is larger' if larger else ''}")
    if any(record["format"] == "onnx" for record in records):
        texts.append(".onnx: ONNX Runtime has no bitwise kernels and computes in float32")
    if any(record["format"] == "packed" for record in records):
        texts.append(".fsg: computed by NumPy, which says what is right and not how fast it can be")
    return texts


def profile_title(record: Record) -> str:
    """What was profiled, where, and on how many threads."""
    if record["kind"] == "emulated":
        return f"Where the instructions of {Path(record['artefact']).name} go, {board_name(record)} emulated, 1 thread"
    where = f"{board_name(record)}, {threads_text(record)}"
    images = f", {batch} images at once" if (batch := record.get("batch", 1)) > 1 else ""
    return f"Where the time of {Path(record['artefact']).name} goes on {where}{images}"


def _machine(record: Record) -> str:
    if record["device"] == "local":
        return f"this machine ({record['cpu']})"
    return f"{record['device']} ({record['cpu']})" if record.get("cpu") else record["device"]


def board_name(record: Record) -> str:
    """The host that a record was measured on, or else its device."""
    if record.get("host"):
        return str(record["host"])
    return "this machine" if record["device"] == "local" else str(record["device"])


def threads_text(record: Record) -> str:
    return f"{record['threads']} thread{'s' * (record['threads'] > 1)}"


def _latency(record: Record, name: str) -> str:
    return milliseconds(record["latency_ms"][name]) if record["kind"] == "measured" else ""


def _smaller(record: Record) -> str:
    if "float_size_bytes" not in record:
        return ""
    return times_smaller(record["float_size_bytes"], record["size_bytes"])


def short_name(name: str, limit: int = 60) -> str:
    """The first part of a name, and the end of that, for a converter joins the names of all that it fused."""
    first = name.split(";")[0]
    return first if len(first) <= limit else "..." + first[3 - limit :]


def milliseconds(value: float) -> str:
    """Three digits behind the point below ten milliseconds, else one."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def millions(count: float) -> str:
    return f"{count / 1e6:.1f} M" if count < 1e9 else f"{count / 1e9:.2f} G"


def size(count: float) -> str:
    """Bytes in the unit that people would take: kB up to 10 MB, so that sizes can be compared with each other."""
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1e3:.1f} kB" if count < 1e7 else f"{count / 1e6:.1f} MB"
