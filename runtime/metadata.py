"""What a model file says about itself, read from the file alone: fsg's metadata and its operators.

The metadata is one JSON object. A .tflite file keeps it in the buffer of a `Metadata` entry named "fsg", a
.onnx file in the metadata property of that name; whoever exports the model decides what is in it.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsg import FsgError

KEY = "fsg"
FORMATS = {".tflite": "tflite", ".onnx": "onnx"}

# What the readers of both formats raise on damaged bytes.
DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


def model_format(path: str | Path) -> str:
    """ "tflite" or "onnx", after making sure that the file is there.

    Raises:
        FsgError: no such file, or another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise FsgError(f"{path}: not a model file; expected a name that ends in {' or '.join(FORMATS)}")
    if not path.is_file():
        raise FsgError(f"{path}: no such file; `fsg export` writes one")
    return FORMATS[path.suffix.lower()]


def read_metadata(path: str | Path) -> dict[str, Any]:
    """fsg's metadata of a .tflite or .onnx file; empty if fsg did not write the file.

    Raises:
        FsgError: no such file, another suffix, or damaged content.
    """
    is_tflite = model_format(path) == "tflite"
    content = _read(path)
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

    _check_identifier("model", model)
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


def pack_tflite(model: Any) -> bytes:
    """Serialises a `schema_py_generated.ModelT`, every buffer aligned to the 16 bytes LiteRT's kernels like.

    The generated code packs buffers with the alignment of single bytes, which makes LiteRT copy them.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class AlignedBuffer(schema.BufferT):
        def Pack(self, builder: flatbuffers.Builder) -> int:
            offset = None
            if self.data is not None:
                content = bytes(self.data)
                builder.StartVector(1, len(content), 16)
                builder.head -= len(content)
                builder.Bytes[builder.head : builder.head + len(content)] = content
                offset = builder.EndVector()
            schema.BufferStart(builder)
            if offset is not None:
                schema.BufferAddData(builder, offset)
            return schema.BufferEnd(builder)

    for buffer in model.buffers:
        buffer.__class__ = AlignedBuffer
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def op_counts(model: str | Path | bytes) -> dict[str, int]:
    """How often each operator occurs in a .tflite file (a path or its content), most frequent first.

    Builtin operators have the schema's names, such as CONV_2D; custom ones their own, such as LceBconv2d.

    Raises:
        FsgError: no such file, not a .tflite file, or damaged content.
    """
    name = "model" if isinstance(model, bytes) else str(model)
    if not isinstance(model, bytes) and model_format(model) != "tflite":
        raise FsgError(f"{name}: operators are counted in .tflite files only")
    root, names = read_tflite(model)
    counts: Counter[str] = Counter()
    try:
        for g in range(root.SubgraphsLength()):
            graph = root.Subgraphs(g)
            counts.update(names[graph.Operators(i).OpcodeIndex()] for i in range(graph.OperatorsLength()))
    except DAMAGE as error:
        raise FsgError(f"{name}: truncated or damaged ({error}); export or copy it again") from error
    return dict(counts.most_common())


def read_tflite(model: str | Path | bytes) -> tuple[Any, list[str]]:
    """The root of a .tflite file (a path or its content), and the operators' names by their code's index.

    Raises:
        FsgError: not a .tflite file, or damaged content.
    """
    from ai_edge_litert import schema_py_generated as schema

    name = "model" if isinstance(model, bytes) else str(model)
    content = model if isinstance(model, bytes) else _read(model)
    _check_identifier(name, content)
    builtin = {code: op for op, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    names = []
    try:
        root = schema.Model.GetRootAs(content)
        for code in map(root.OperatorCodes, range(root.OperatorCodesLength())):
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            is_custom = number == schema.BuiltinOperator.CUSTOM
            names.append(code.CustomCode().decode() if is_custom else builtin.get(number, f"BUILTIN_{number}"))
    except DAMAGE as error:
        raise FsgError(f"{name}: truncated or damaged ({error}); export or copy it again") from error
    return root, names


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FsgError(f"{path}: cannot be read ({error.strerror})") from error


def _check_identifier(name: str, content: bytes) -> None:
    if content[4:8] != b"TFL3":
        raise FsgError(f"{name}: not a .tflite file (its identifier TFL3 is missing); export or copy it again")


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
