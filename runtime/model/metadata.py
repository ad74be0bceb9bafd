"""What a model file says about itself, read from the file alone: fsg's metadata.

The metadata is one JSON object. A .tflite file keeps it in the buffer of a `Metadata` entry named "fsg", a
.onnx file in the metadata property of that name; whoever exports the model decides what is in it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsg import FsgError
from fsg.runtime.model.files import DAMAGE, model_format, read_bytes
from fsg.runtime.model.tflite import check_identifier, pack_tflite

KEY = "fsg"


def read_metadata(path: str | Path) -> dict[str, Any]:
    """fsg's metadata of a .tflite or .onnx file; empty if fsg did not write the file.

    Raises:
        FsgError: no such file, another suffix, or damaged content.
    """
    is_tflite = model_format(path) == "tflite"
    content = read_bytes(path)
    try:
        text = _tflite_metadata(content) if is_tflite else _onnx_metadata(content)
        metadata = {} if text is None else json.loads(text)
    except DAMAGE as error:
        raise FsgError(f"{path}: truncated or damaged ({error}); export or copy it again") from error
    if not isinstance(metadata, dict):
        raise FsgError(f"{path}: its metadata is not a JSON object; export it again")
    return metadata


def add_tflite_metadata(model: bytes, metadata: dict[str, Any]) -> bytes:
    """The .tflite file `model` with `metadata` as its fsg entry, in place of one already there.

    Raises:
        FsgError: `model` is not a .tflite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    check_identifier("model", model)
    try:
        graph = schema.ModelT.InitFromPackedBuf(model)
    except DAMAGE as error:
        raise FsgError(f"model: truncated or damaged .tflite content ({error}); convert it again") from error
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


def _onnx_metadata(content: bytes) -> bytes | None:
    # ModelProto.metadata_props = 14, each a StringStringEntryProto {key = 1, value = 2}. Reading three fields
    # by hand needs no onnx package on the board.
    for number, entry in _protobuf_fields(content):
        if number == 14 and isinstance(entry, bytes):
            pair = dict(_protobuf_fields(entry))
            if pair.get(1) == KEY.encode():
                value = pair[2]
                return value if isinstance(value, bytes) else None
    return None


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The (number, value) pairs of a serialised protobuf message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError("not a protobuf message")
        size, at = _varint(message, at) if wire == 2 else (8 if wire == 1 else 4, at)
        if size > len(message) - at:
            raise ValueError("it ends in the middle of a field")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("not a protobuf message")
