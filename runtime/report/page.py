"""One self-contained HTML page about a run: training, export and what was measured, emulated or estimated of it.

page.html.j2 is the page, with page.css as its style; here is what it shows.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError, make_folder, replacing
from fsg.runtime.measure.records import RECORDS, read_records
from fsg.runtime.model.classes import CONFUSION, FIGURES_NOTE, Matrix, class_figures, class_rows, read_confusion
from fsg.runtime.model.exported import beside_float, decisions, float_layers
from fsg.runtime.model.files import REPORT, export_doubts, read_object, read_rows
from fsg.runtime.model.operators import Operator, read_operators
from fsg.runtime.report.charts import can_draw, curve
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

DRAWN = 40
"""Classes that the matrix is drawn for, and that the table has: of more, those that are found least."""


@dataclass(frozen=True)
class Facts:
    """What the files of a run say; empty where one is missing."""

    name: str
    summary: dict[str, Any]
    epochs: list[dict[str, float]]
    export: dict[str, Any]
    layers: list[Operator]
    classes: tuple[Matrix, list[str]] | None
    records: list[Record]
    doubts: list[str]


def read_facts(run: Path, bench_files: Sequence[Path] = ()) -> Facts:
    """Reads summary.json, metrics.csv, confusion.csv, export/report.json, the layers of export/model.tflite and the
    bench records.

    Raises:
        FsgError: files that are damaged, or nothing to report on.
    """
    export = run if (run / REPORT).is_file() else run / "export"
    model = export / "model.tflite"
    facts = Facts(
        name=run.resolve().name,
        summary=read_object(run / "summary.json"),
        epochs=read_rows(run / "metrics.csv"),
        export=read_object(export / REPORT),
        layers=read_operators(model) if model.exists() else [],
        classes=read_confusion(run / CONFUSION),
        doubts=[doubt for path in sorted(export.glob("model.*")) for doubt in export_doubts(path)],
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
    facts, out = read_facts(run, bench_files), out or run / "report.html"
    try:
        text = page(facts)
    except (KeyError, TypeError, AttributeError) as error:
        raise FsgError(
            f"{run}: its summary.json, export/report.json or export/bench.json is damaged or of another version"
            f" ({type(error).__name__}: {error}); write it again with fsg export or fsg bench"
        ) from error
    make_folder(out.parent)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


@dataclass(frozen=True)
class Table:
    """Headings and cells; `shares` are lengths of bars below the cells of the first column."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    shares: Sequence[str] = ()


@dataclass(frozen=True)
class Bar:
    """A labelled bar: its spans are (CSS class, left, width), in percent of the track."""

    label: str
    spans: Sequence[tuple[str, str, str]]
    value: str
    variant: str
    small: str = ""


def page(facts: Facts) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("fsg.runtime.report", ""), autoescape=True, undefined=StrictUndefined
    )
    curves = [(name, Markup(drawing)) for name, drawing in _curves(facts.epochs)]
    return environment.get_template("page.html.j2").render(
        title=" on ".join(filter(None, (_about(facts, "model"), Path(_about(facts, "dataset")).name))) or facts.name,
        style=Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8")),
        left={*LEFT, "name"},
        subtitle=_subtitle(facts),
        doubts=facts.doubts,
        tiles=_tiles(facts),
        latency=_latency(facts.records),
        profiles=[_profile(record) for record in facts.records if record.get("ops")],
        curves=curves,
        sizes=_sizes(facts),
        classes=_classes(facts.classes),
        verification=_verification(facts.export),
        layers=_layers(facts.layers),
        objects=_objects(facts),
        lists=_lists(facts),
    )


def _subtitle(facts: Facts) -> str:
    parts = [f"run {facts.name}"]
    if "method" in facts.summary:
        bits = facts.summary.get("activation_bits")
        parts.append(f"trained with {facts.summary['method']}, {bits}-bit activations, seed {facts.summary['seed']}")
    if "layers" in facts.export:
        layers = facts.export["layers"]
        parts.append(f"{layers['bitwise']} of {sum(layers.values())} layers run on bits")
    if facts.epochs and not can_draw():
        parts.append("curves of the training are drawn where matplotlib is installed")
    return "; ".join(parts)


def _tiles(facts: Facts) -> list[tuple[str, str]]:
    """The few figures that people ask for first, and what they are."""
    tiles = []
    if "test_accuracy" in facts.summary:
        tiles.append((f"{facts.summary['test_accuracy']:.2%}", "test accuracy in PyTorch"))
    for artefact in facts.export.get("artefacts", [])[:1]:
        beside = beside_float(artefact, facts.export)
        tiles.append((size(artefact["size_bytes"]), f"{Path(artefact['path']).name}, {beside}"))
        verify = artefact["verify"]
        tiles.append((f"{verify['top1_agreement']:.1%}", f"of its decisions are {verify.get('source', 'PyTorch')}'s"))
    ours = [record for record in facts.records if record.get("variant", "binary") == "binary"]
    measured = [record for record in ours if record["kind"] == "measured" and record["format"] == "tflite"]
    for record in measured[:2]:
        where = f"{board_name(record)}, {threads_text(record)}"
        where += f", batch {batch}" if (batch := record.get("batch", 1)) > 1 else ""
        tiles.append((f"{milliseconds(record['latency_ms']['p50'])} ms", f"median on {where}"))
    for record in [record for record in ours if record["kind"] == "estimated"][: 2 - len(measured)]:
        tiles.append((estimated_range(record).removesuffix(" estimated"), f"estimated for {record['device']}"))
    return tiles


def _latency(records: Sequence[Record]) -> dict[str, Any] | None:
    if not records:
        return None
    timed = [record for record in records if record["kind"] != "emulated"]
    longest = max((_reach(record) for record in timed), default=1.0) or 1.0
    used = {record.get("variant", "binary") for record in records}
    boards: dict[str, list[Record]] = {}
    for record in records:
        boards.setdefault(board_name(record), []).append(record)
    told = notes(records)
    if any(record["kind"] == "measured" for record in timed):
        told.append("bars: the median, and thinner up to p90; the scale is the same for all")
    return {
        "variants": [(name, name) for name in ("binary", "float32", "int8") if name in used],
        "boards": [_board(name, group, longest) for name, group in boards.items()],
        "warnings": warnings(records),
        "table": Table(*rows(records)),
        "notes": told,
    }


def _board(name: str, records: Sequence[Record], longest: float) -> dict[str, Any]:
    cpu = next((record["cpu"] for record in records if record.get("cpu") and record["kind"] == "measured"), "")
    return {
        "name": f"{name} ({cpu})" if cpu else name,
        "bars": [_latency_bar(record, longest) for record in records if record["kind"] != "emulated"],
        "emulated": [_emulation(record) for record in records if record["kind"] == "emulated"],
    }


def _reach(record: Record) -> float:
    return float(record["latency_ms"]["high" if record["kind"] == "estimated" else "p90"])


def _latency_bar(record: Record, longest: float) -> Bar:
    latency = record["latency_ms"]
    if record["kind"] == "estimated":
        spans, value = [("range", latency["low"], latency["high"])], estimated_range(record)
    else:
        spans = [("tail", latency["p50"], latency["p90"]), ("", 0.0, latency["p50"])]
        value = f"{milliseconds(latency['p50'])} ms"
        if "times_as_long" in record:
            value += f", {record['times_as_long']:.2f}x"
    name, variant = Path(record["artefact"]).name, record.get("variant", "binary")
    small = threads_text(record) + (f", batch {record['batch']}" if record.get("batch", 1) > 1 else "")
    return _bar(name, spans, longest, value, variant, small=small)


def _bar(
    label: str, spans: Iterable[tuple[str, float, float]], longest: float, value: str, variant: str, *, small: str = ""
) -> Bar:
    """A bar whose `spans` are (CSS class, start, end) on a scale that ends at `longest`."""
    placed = [(kind, f"{start / longest:.2%}", f"{max(0.0, end - start) / longest:.2%}") for kind, start, end in spans]
    return Bar(label, placed, value, variant, small)


def _emulation(record: Record) -> str:
    fast = "the fast kernels give the bits of the plain loops"
    yes = "it gives the bits of the same C here" if record["format"] == "c" else fast
    exact = {"yes": f"bit-exact: {yes}"}.get(bit_exact(record), f"bit-exact: {bit_exact(record)}")
    memory = ""
    if "flash_bytes" in record:
        memory = f", {size(record['flash_bytes'])} of flash, {size(record['ram_bytes'])} of RAM"
    return (
        f"{Path(record['artefact']).name}, emulated {record['cpu']}: {exact};"
        f" {millions(record['instructions'])} instructions an inference{memory}; no time, for an emulator has none"
    )


def _profile(record: Record) -> dict[str, Any]:
    lengths = [op.get("time_share", op["share"]) for op in record["ops"]]
    longest = max(lengths) or 1.0
    shares = [f"{length / longest:.2%}" for length in lengths]
    return {
        "title": profile_title(record),
        "table": Table(*profile_rows(record), shares),
        "note": profile_note(record),
    }


def _curves(epochs: Sequence[dict[str, float]]) -> list[tuple[str, str]]:
    if not epochs or not can_draw():
        return []
    drawings = (
        ("accuracy", curve(epochs, "accuracy", "accuracy over epochs")),
        ("loss in nats", curve(epochs, "loss", "loss in nats over epochs")),
    )
    return [(name, drawing) for name, drawing in drawings if drawing]


def _classes(found: tuple[Matrix, list[str]] | None) -> dict[str, Any] | None:
    """The figures of each class, and the matrix with the share of a class that each cell is of its row."""
    if found is None:
        return None
    matrix, names = found
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cells = [list(zip(*rows, strict=True)) for rows in zip(matrix.tolist(), np.round(shares, 3).tolist(), strict=True)]
    figures = class_figures(matrix, names)
    worst = sorted(figures, key=lambda one: (one.recall is None, one.recall)) if len(names) > DRAWN else figures
    return {
        "table": Table(*class_rows(worst[:DRAWN])),
        "names": names,
        "matrix": list(zip(names, cells, strict=True)) if len(names) <= DRAWN else [],
        "note": f"{FIGURES_NOTE}; all {len(names)} are in {CONFUSION}",
    }


def _sizes(facts: Facts) -> list[Bar]:
    if "float_size_bytes" not in facts.export:
        return []
    files = {"parameters as float32": (facts.export["float_size_bytes"], "float32", "")}
    for artefact in facts.export["artefacts"]:
        files[Path(artefact["path"]).name] = (artefact["size_bytes"], "binary", beside_float(artefact, facts.export))
    for record in facts.records:
        if record.get("variant", "binary") != "binary":
            files.setdefault(Path(record["artefact"]).name, (record["size_bytes"], record["variant"], ""))
    longest = max(count for count, *_ in files.values())
    return [
        _bar(name, [("", 0.0, count)], longest, f"{size(count)} ({count} B){f', {beside}' if beside else ''}", variant)
        for name, (count, variant, beside) in files.items()
    ]


def _verification(export: dict[str, Any]) -> dict[str, Any] | None:
    if not export.get("artefacts"):
        return None
    headings = ["file", "images", "accuracy", "PyTorch", "same top-1", "median difference", "largest difference"]
    headings += ["worst class's median", "its limit"]
    discarded = export.get("hypernetwork_parameters_discarded", 0)
    cells, told = [], [f"{discarded} hypernetwork parameters stayed behind", *float_layers(export)]
    if "epoch" in export:
        told.insert(0, f"the weights are those after epoch {export['epoch']}")
    for artefact in export["artefacts"]:
        verify, name = artefact["verify"], Path(artefact["path"]).name
        if text := decisions(verify):
            told.append(f"{name}: {text}")
        if (source := verify.get("source", "PyTorch")) != "PyTorch":
            kind = "test" if "dataset" in verify else "random"
            told.append(f"{name}: compared with {source} on {verify['samples']} {kind} images")
        given = ("accuracy", "torch_accuracy", "top1_agreement")
        shares = [f"{verify[share]:.2%}" if share in verify else "" for share in given]
        columns = ("median_abs_diff", "max_abs_diff", "class_median_abs_diff", "limit")
        differences = [f"{verify[column]:.1e}" if column in verify else "" for column in columns]
        cells.append([name, str(verify["samples"]), *shares, *differences])
    return {"table": Table(headings, cells), "notes": told}


def _layers(layers: Sequence[Operator]) -> Table | None:
    if not layers:
        return None
    headings = ["operator", "output of", "shape", "binary MACs", "float MACs", "int8 MACs", "weights"]

    def figures(layers: Sequence[Operator]) -> list[str]:
        counts = (sum(getattr(layer, name) for layer in layers) for name in ("binary_macs", "float_macs", "int8_macs"))
        weights = sum(layer.weight_bytes for layer in layers)
        return [*(f"{count:,}" if count else "" for count in counts), f"{weights:,} B" if weights else ""]

    cells = [
        [layer.kind, short_name(layer.name), "x".join(map(str, layer.shape)), *figures([layer])] for layer in layers
    ]
    used = [i for i in range(len(headings)) if any(row[i] for row in cells)]
    total = ["total", "", "", *figures(layers)]
    return Table([headings[i] for i in used], [[row[i] for i in used] for row in (*cells, total)])


def _named_objects(facts: Facts) -> list[tuple[str, dict[str, Any]]]:
    objects = [("Training: summary.json", facts.summary), ("Export: report.json", _by_name(facts.export))]
    for record in facts.records:
        threads = f", {threads_text(record)}" if "threads" in record else ""
        objects.append((f"{Path(record['artefact']).name} on {board_name(record)}, {record['kind']}{threads}", record))
    return [(title, content) for title, content in objects if content]


def _objects(facts: Facts) -> list[tuple[str, list[tuple[str, str]]]]:
    """All that the files say, unrounded, as the JSON has it."""
    return [
        (title, [(name, _json(value)) for name, value in flatten(content).items()])
        for title, content in _named_objects(facts)
    ]


def _lists(facts: Facts) -> list[tuple[str, Table]]:
    """The lists of objects among it, and the epochs."""
    found = [
        (f"{title}: {name}", _raw_table(content[name]))
        for title, content in _named_objects(facts)
        for name in ["ops"]
        if content.get(name)
    ]
    return found + ([("Training: metrics.csv", _raw_table(facts.epochs))] if facts.epochs else [])


def _by_name(export: dict[str, Any]) -> dict[str, Any]:
    """The export's report with its list of artefacts as an object, so that it flattens."""
    artefacts = {Path(artefact["path"]).name: artefact for artefact in export.get("artefacts", [])}
    return {**export, "artefacts": artefacts} if artefacts else export


def _raw_table(objects: Sequence[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for item in objects for name in item))
    return Table(names, [[_json(item[name]) if name in item else "" for name in names] for item in objects])


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _about(facts: Facts, name: str) -> str:
    return str(facts.summary.get(name) or facts.export.get(name) or "")
