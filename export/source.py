"""Exports whatever is given; imports what that kind of source needs."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.export.options import is_packed


def export_any(source: Path, formats: Collection[str], out: Path | None, **how: Any) -> dict[str, Any]:
    """Exports the folder of a run, by default into RUN/export, or a packed-sign file; returns the report.

    `how` is as for `pipeline.export_run` or `from_file.export_packed`.
    """
    if is_packed(source):
        if how.pop("best", False):
            raise FsgError(f"{source} is no run: --best is for the folder of one")
        from fsg.export.from_file import export_packed

        return export_packed(source, formats, out, **how)
    best = how.pop("best", False)
    from fsg.export.formats.tflite.write import prepare

    prepare(
        formats, how.get("writer", "auto")
    )  # TensorFlow starts in a process of its own while PyTorch does in this one
    from fsg.export.pipeline import export_run
    from fsg.training.run import open_run

    return export_run(open_run(source, best=best), formats, out or source / "export", **how)
