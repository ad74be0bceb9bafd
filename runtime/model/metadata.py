"""What a model file says about itself, read from the file alone: fsg's metadata.

The metadata is one JSON object. A .tflite file keeps it in the buffer of a `Metadata` entry named "fsg", a
.onnx file in the metadata property of that name, a .fsg file in its header, a .c file in a comment; whoever exports the
model decides what is in it.
"""

import json
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.model.c import c_metadata, read_header
from fsg.runtime.model.files import DAMAGE, model_format, read_bytes
from fsg.runtime.model.onnx import onnx_property, open_onnx
from fsg.runtime.model.packed.read import read_packed
from fsg.runtime.model.tflite import check_identifier, pack_tflite

KEY = "fsg"
DESCRIPTION = "Needs the operators of Larq Compute Engine: run it with fsg's delegate, fsg.runtime.delegate_path()."
"""Of .tflite files that have such operators; tools show it to whom a stock interpreter refuses the file."""


def read_metadata(path: str | Path) -> dict[str, Any]:
    """fsg's metadata of a model file; empty if fsg did not write it.

    Raises:
        FsgError: no such file, another suffix, or damaged content; for .onnx, onnxruntime is missing.
    """
    form = model_format(path)
    if form == "packed":
        return read_packed(path).metadata
    if form == "c":
        return c_metadata(Path(path))
    if form == "onnx":
        return parse_metadata(path, onnx_property(open_onnx(path), KEY))
    try:
        text = _tflite_metadata(read_bytes(path))
    except DAMAGE as error:
        raise FsgError(f"{path}: truncated or damaged ({error}); export or copy it again") from error
    return parse_metadata(path, text)


def sizes_of(path: Path) -> dict[str, int]:
    """`size_bytes` of a model file; of a model.c those of its constants, which go into flash, and `arena_bytes`."""
    if model_format(path) != "c":
        return {"size_bytes": path.stat().st_size}
    header, _ = read_header(path)
    return {"size_bytes": header["FSG_CONSTANT_BYTES"], "arena_bytes": header["FSG_ARENA_BYTES"]}


def parse_metadata(path: str | Path, text: bytes | str | None) -> dict[str, Any]:
    """The object in a file's metadata entry, empty for none; FsgError that names the file where it is damaged."""
    try:
        metadata = {} if text is None else json.loads(text)
    except DAMAGE as error:
        raise FsgError(f"{path}: truncated or damaged ({error}); export or copy it again") from error
    if not isinstance(metadata, dict):
        raise FsgError(f"{path}: its metadata is not a JSON object; export it again")
    return metadata


def add_tflite_metadata(model: bytes, metadata: dict[str, Any]) -> bytes:
    """The .tflite file `model` with `metadata` as its fsg entry, in place of one already there.

    Its description says what its binary operators need, where it has some.

    Raises:
        FsgError: `model` is not a .tflite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    check_identifier("model", model)
    try:
        graph = schema.ModelT.InitFromPackedBuf(model)
    except DAMAGE as error:
        raise FsgError(f"model: truncated or damaged .tflite content ({error}); convert it again") from error
    if any((code.customCode or b"").startswith(b"Lce") for code in graph.operatorCodes):
        graph.description = DESCRIPTION
    graph.metadata = [entry for entry in graph.metadata or [] if entry.name != KEY.encode()]
    entry = schema.MetadataT()
    entry.name, entry.buffer = KEY.encode(), len(graph.buffers)
    graph.metadata.append(entry)
    buffer = schema.BufferT()
    buffer.data = json.dumps(metadata).encode()
    graph.buffers.append(buffer)
    return pack_tflite(graph)


def _tflite_metadata(content: bytes) -> bytes | None:
    from ai_edge_litert import schema_py_generated as schema

    if content[4:8] != b"TFL3":
        raise ValueError("the identifier TFL3 is missing")
    model = schema.Model.GetRootAs(content)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == KEY.encode():
            return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    return None
