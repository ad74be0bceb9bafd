"""One self-contained HTML page about a run: training, export and what was measured, emulated or estimated of it.

Everything is inline, SVG and CSS without scripts, so that the page opens from disk, prints, and can be sent as a file.
"""

import html
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsg import FsgError, make_folder, replacing
from fsg.runtime.measure.records import RECORDS, read_records
from fsg.runtime.model.files import read_object, read_rows
from fsg.runtime.model.operators import Layer, read_layers
from fsg.runtime.report.view import (
    LEFT,
    Record,
    bit_exact,
    board_name,
    estimated_range,
    flatten,
    millions,
    milliseconds,
    notes,
    profile_note,
    profile_rows,
    profile_title,
    rows,
    short_name,
    size,
    threads_text,
    warnings,
)

CHART = (400, 230)  # the coordinates of a chart; it is drawn about as large, so that its text is that of the page
MARGIN = (46, 14, 26, 12)  # left, right, bottom, top


@dataclass(frozen=True)
class Facts:
    """What the files of a run say; empty where one is missing."""

    name: str
    summary: dict[str, Any]
    epochs: list[dict[str, float]]
    export: dict[str, Any]
    layers: list[Layer]
    records: list[Record]


def read_facts(run: Path, bench_files: Sequence[Path] = ()) -> Facts:
    """Reads summary.json, metrics.csv, export/report.json, the layers of export/model.tflite and the bench records.

    Raises:
        FsgError: files that are damaged, or nothing to report on.
    """
    export, model = run / "export", run / "export" / "model.tflite"
    facts = Facts(
        name=run.resolve().name,
        summary=read_object(run / "summary.json"),
        epochs=read_rows(run / "metrics.csv"),
        export=read_object(export / "report.json"),
        layers=read_layers(model) if model.exists() else [],
        records=[record for path in (export / RECORDS, *bench_files) for record in read_records(path)],
    )
    if not (facts.summary or facts.epochs or facts.export or facts.records):
        raise FsgError(f"{run}: holds neither a finished epoch nor an export nor records of fsg bench")
    return facts


def write_page(run: Path, bench_files: Sequence[Path] = (), out: Path | None = None) -> Path:
    """Writes the page about a run to `out`, RUN/report.html by default; returns where it is.

    Raises:
        FsgError: there is no such run or file of records, they are damaged, or the page cannot be written.
    """
    if not run.is_dir():
        raise FsgError(f"{run}: no such folder; give that of a run")
    for path in bench_files:
        if not path.is_file():
            raise FsgError(f"{path}: no such file; fsg bench --json writes one")
    text, out = page(read_facts(run, bench_files)), out or run / "report.html"
    make_folder(out.parent)
    with replacing(out) as temporary:
        temporary.write_text(text)
    return out


def page(facts: Facts) -> str:
    """The whole page."""
    style = Path(__file__).with_name("page.css").read_text()
    title = " on ".join(filter(None, (_about(facts, "model"), _about(facts, "dataset")))) or facts.name
    sections = (
        _section("Latency", _latency(facts.records)),
        _section("Operators", "".join(map(_profile, facts.records))),
        _section("Training", _curves(facts.epochs)),
        _section("Sizes", _sizes(facts)),
        _section("Export, compared with PyTorch", _verification(facts.export)),
        _section("Layers", _layer_table(facts.layers)),
        _section("Every figure", _every_figure(facts)),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n{_subtitle(facts)}\n{_tiles(facts)}\n{''.join(sections)}</body>\n</html>\n"
    )


def _subtitle(facts: Facts) -> str:
    parts = [f"run {facts.name}"]
    if "method" in facts.summary:
        bits = facts.summary.get("activation_bits")
        parts.append(f"trained with {facts.summary['method']}, {bits}-bit activations, seed {facts.summary['seed']}")
    if "layers" in facts.export:
        layers = facts.export["layers"]
        parts.append(f"{layers['bitwise']} of {sum(layers.values())} layers run on bits")
    return f'<p class="soft">{_text("; ".join(parts))}</p>'


def _tiles(facts: Facts) -> str:
    """The few figures that people ask for first."""
    tiles = []
    if "test_accuracy" in facts.summary:
        tiles.append((f"{facts.summary['test_accuracy']:.2%}", "test accuracy in PyTorch"))
    artefacts = facts.export.get("artefacts", [])
    for artefact in artefacts[:1]:
        smaller = facts.export["float_size_bytes"] / artefact["size_bytes"]
        tiles.append(
            (size(artefact["size_bytes"]), f"{Path(artefact['path']).name}, {smaller:.1f}x smaller than float32")
        )
        tiles.append((f"{artefact['verify']['top1_agreement']:.1%}", "of its decisions are PyTorch's"))
    ours = [record for record in facts.records if record.get("variant", "binary") == "binary"]
    measured = [record for record in ours if record["kind"] == "measured" and record["format"] == "tflite"]
    for record in measured[:2]:
        where = f"{board_name(record)}, {threads_text(record)}"
        tiles.append((f"{milliseconds(record['latency_ms']['p50'])} ms", f"median on {where}"))
    for record in [record for record in ours if record["kind"] == "estimated"][: 2 - len(measured)]:
        tiles.append((estimated_range(record).removesuffix(" estimated"), f"estimated for {record['device']}"))
    cells = (f'<div class="tile"><b>{_text(value)}</b><span>{_text(what)}</span></div>' for value, what in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>' if tiles else ""


# Latency
def _latency(records: Sequence[Record]) -> str:
    if not records:
        return ""
    timed = [record for record in records if record["kind"] != "emulated"]
    longest = max((_reach(record) for record in timed), default=1.0) or 1.0
    boards: dict[str, list[Record]] = {}
    for record in records:
        boards.setdefault(board_name(record), []).append(record)
    parts = [_key([("binary", "binary"), ("float32", "float32"), ("int8", "int8")], _variants(records))]
    for board, group in boards.items():
        cpu = next((record["cpu"] for record in group if record.get("cpu") and record["kind"] == "measured"), "")
        parts.append(f"<h3>{_text(board)}{_text(f' ({cpu})') if cpu else ''}</h3>")
        bars = [_bar_of(record, longest) for record in group if record["kind"] != "emulated"]
        parts.append(f'<div class="bars">{"".join(bars)}</div>' if bars else "")
        parts += [f"<p>{_text(_emulation(record))}</p>" for record in group if record["kind"] == "emulated"]
    parts += [f'<p class="warning">{_text(warning)}</p>' for warning in warnings(records)]
    parts.append("<h3>Side by side</h3>" + _table(*rows(records)))
    parts.append("".join(f'<p class="soft">{_text(note)}</p>' for note in notes(records)))
    if any(record["kind"] == "measured" for record in timed):
        parts.append('<p class="soft">bars: the median, and thinner up to p90; the scale is the same for all</p>')
    return "".join(parts)


def _reach(record: Record) -> float:
    return float(record["latency_ms"]["high" if record["kind"] == "estimated" else "p90"])


def _bar_of(record: Record, longest: float) -> str:
    variant, latency = record.get("variant", "binary"), record["latency_ms"]
    label = f"{_text(Path(record['artefact']).name)} <small>{threads_text(record)}</small>"
    if record["kind"] == "estimated":
        spans = [("range", latency["low"], latency["high"])]
        value = estimated_range(record)
    else:
        spans = [("tail", latency["p50"], latency["p90"]), ("", 0.0, latency["p50"])]
        value = f"{milliseconds(latency['p50'])} ms"
        if "times_as_long" in record:
            value += f", {record['times_as_long']:.2f}x"
    return _bar(label, spans, longest, value, variant)


def _emulation(record: Record) -> str:
    exact = {"yes": "bit-exact: the fast kernels give the bits of the plain loops"}.get(
        bit_exact(record), f"bit-exact: {bit_exact(record)}"
    )
    return (
        f"{Path(record['artefact']).name}, emulated {record['cpu']}: {exact};"
        f" {millions(record['instructions'])} instructions an inference; no time, for an emulator has none"
    )


def _variants(records: Iterable[Record]) -> set[str]:
    return {record.get("variant", "binary") for record in records}


def _bar(label: str, spans: Iterable[tuple[str, float, float]], longest: float, value: str, variant: str) -> str:
    """A labelled bar; `spans` are (CSS class, start, end) on a scale that ends at `longest`."""
    pieces = "".join(
        f'<i class="{kind}" style="left:{start / longest:.2%};width:{max(0.0, end - start) / longest:.2%}"></i>'
        for kind, start, end in spans
    )
    return (
        f'<div class="bar"><span class="label">{label}</span><span class="track {variant}">{pieces}</span>'
        f"<span>{_text(value)}</span></div>"
    )


# Profiles
def _profile(record: Record) -> str:
    if not record.get("ops"):
        return ""
    headings, cells = profile_rows(record)
    longest = max(op["share"] for op in record["ops"]) or 1.0
    for row, op in zip(cells, record["ops"], strict=True):
        bar = f'<div class="track binary"><i style="left:0;width:{op["share"] / longest:.2%}"></i></div>'
        row[0] = _text(row[0]) + bar
    table = _table(headings, cells, raw=0)
    return f'<h3>{_text(profile_title(record))}</h3>{table}<p class="soft">{_text(profile_note(record))}</p>'


# Training
def _curves(epochs: Sequence[dict[str, float]]) -> str:
    if not epochs:
        return ""
    charts = (
        _chart("accuracy", epochs, ("train_accuracy", "test_accuracy"), lambda value: f"{value:.0%}"),
        _chart("loss in nats", epochs, ("train_loss", "test_loss"), lambda value: f"{value:g}"),
    )
    return (
        _key([("train", "training"), ("test", "test")], {"train", "test"})
        + f'<div class="charts">{"".join(charts)}</div>'
    )


def _chart(title: str, epochs: Sequence[dict[str, float]], names: Sequence[str], label: Callable[[float], str]) -> str:
    """A line for each of the `names` over the epochs."""
    width, height = CHART
    left, right, bottom, top = MARGIN
    names = [name for name in names if all(name in row for row in epochs)]
    values = [row[name] for row in epochs for name in names if math.isfinite(row[name])]
    if not values:
        return ""
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    first, last = epochs[0]["epoch"], epochs[-1]["epoch"]

    def x(epoch: float) -> float:
        return left + (width - left - right) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * (value - low) / (high - low)

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{label(tick)}</text>'
        for tick in ticks
    ]
    for epoch in dict.fromkeys((first, last)):
        parts.append(f'<text x="{x(epoch):.1f}" y="{height - 6}" text-anchor="middle">{epoch:g}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">epoch</text>')
    for name in names:
        kind = name.partition("_")[0]
        points = [(x(row["epoch"]), y(row[name])) for row in epochs if math.isfinite(row[name])]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="{kind}" points="{line}"/>')
        parts += [f'<circle class="{kind}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in points[-1:]]
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title} over epochs">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{title}</figcaption>{svg}</figure>"


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers, evenly apart, the first at or below `low` and the last at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if end == start:
            end += 1
        if end - start < most:
            break
    return [round(i * step, 12) for i in range(start, end + 1)]


# Export
def _sizes(facts: Facts) -> str:
    if "float_size_bytes" not in facts.export:
        return ""
    files = {"parameters as float32": (facts.export["float_size_bytes"], "float32")}
    for artefact in facts.export["artefacts"]:
        files[Path(artefact["path"]).name] = (artefact["size_bytes"], "binary")
    for record in facts.records:
        if record.get("variant", "binary") != "binary":
            files.setdefault(Path(record["artefact"]).name, (record["size_bytes"], record["variant"]))
    longest = max(count for count, _ in files.values())
    bars = (
        _bar(_text(name), [("", 0.0, count)], longest, f"{size(count)} ({count} B)", variant)
        for name, (count, variant) in files.items()
    )
    return f'<div class="bars">{"".join(bars)}</div>'


def _verification(export: dict[str, Any]) -> str:
    if not export.get("artefacts"):
        return ""
    headings = ["file", "images", "accuracy", "PyTorch", "same top-1", "median difference", "largest difference"]
    cells = []
    for artefact in export["artefacts"]:
        verify = artefact["verify"]
        shares = [f"{verify[name]:.2%}" for name in ("accuracy", "torch_accuracy", "top1_agreement")]
        differences = [f"{verify[name]:.1e}" for name in ("median_abs_diff", "max_abs_diff")]
        cells.append([Path(artefact["path"]).name, str(verify["samples"]), *shares, *differences])
    discarded = export.get("hypernetwork_parameters_discarded", 0)
    return _table(headings, cells) + f'<p class="soft">{discarded} hypernetwork parameters stayed behind</p>'


def _layer_table(layers: Sequence[Layer]) -> str:
    if not layers:
        return ""
    headings = ["operator", "output of", "shape", "binary MACs", "float MACs", "int8 MACs", "weights"]

    def figures(layers: Sequence[Layer]) -> list[str]:
        counts = (sum(getattr(layer, name) for layer in layers) for name in ("binary_macs", "float_macs", "int8_macs"))
        weights = sum(layer.weight_bytes for layer in layers)
        return [*(f"{count:,}" if count else "" for count in counts), f"{weights:,} B" if weights else ""]

    cells = [
        [layer.kind, short_name(layer.name), "x".join(map(str, layer.shape)), *figures([layer])] for layer in layers
    ]
    used = [i for i in range(len(headings)) if any(row[i] for row in cells)]
    total = ["total", "", "", *figures(layers)]
    return _table([headings[i] for i in used], [[row[i] for i in used] for row in (*cells, total)])


# Everything
def _every_figure(facts: Facts) -> str:
    """All that the files say, unrounded, as the JSON has it."""
    objects = [("Training: summary.json", facts.summary), ("Export: report.json", _by_name(facts.export))]
    for record in facts.records:
        threads = f", {threads_text(record)}" if "threads" in record else ""
        objects.append((f"{Path(record['artefact']).name} on {board_name(record)}, {record['kind']}{threads}", record))
    boxes = []
    for title, content in objects:
        if content:
            pairs = "".join(
                f'<tr><td class="text">{_text(name)}</td><td class="text">{_text(_json(value))}</td></tr>'
                for name, value in flatten(content).items()
            )
            boxes.append(f"<section><h3>{_text(title)}</h3><table>{pairs}</table></section>")
    lists = [
        f"<h3>{_text(title)}: {name}</h3>{_raw_table(content[name])}"
        for title, content in objects
        for name in ("ops", "instructions_by_op")
        if content.get(name)
    ]
    epochs = f"<h3>Training: metrics.csv</h3>{_raw_table(facts.epochs)}" if facts.epochs else ""
    return f'<div class="all">{"".join(boxes)}</div>{"".join(lists)}{epochs}'


def _by_name(export: dict[str, Any]) -> dict[str, Any]:
    """The export's report with its list of artefacts as an object, so that it flattens."""
    artefacts = {Path(artefact["path"]).name: artefact for artefact in export.get("artefacts", [])}
    return {**export, "artefacts": artefacts} if artefacts else export


def _raw_table(objects: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for item in objects for name in item))
    return _table(names, [[_json(item[name]) if name in item else "" for name in names] for item in objects])


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# Pieces
def _section(title: str, content: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{content}\n" if content else ""


def _key(entries: Iterable[tuple[str, str]], used: set[str]) -> str:
    keys = (f'<span class="key {kind}"><i></i>{_text(name)}</span>' for kind, name in entries if kind in used)
    return f"<p>{''.join(keys)}</p>"


def _table(headings: Sequence[str], cells: Iterable[Sequence[str]], raw: int | None = None) -> str:
    """A table that scrolls by itself where it is too wide; column `raw` is HTML already."""
    kinds = [' class="text"' if heading in (*LEFT, "name") else "" for heading in headings]
    head = "".join(f"<th{kind}>{_text(heading)}</th>" for heading, kind in zip(headings, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kinds[i]}>{cell if i == raw else _text(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>\n"
        for row in cells
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _text(value: str) -> str:
    return html.escape(value)


def _about(facts: Facts, name: str) -> str:
    return str(facts.summary.get(name) or facts.export.get(name) or "")
