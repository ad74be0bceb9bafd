"""Reads and writes .tflite files as the flatbuffers that they are."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.runtime.library import delegate_path
from fsg.runtime.model.files import DAMAGE, model_format, read_bytes
from fsg.runtime.model.grids import Grid, from_integers


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


def tensors_of(path: str | Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every float32 or int8 value in a .tflite file that the interpreter keeps, by name, for images [N, C, H, W].

    Without XNNPACK, which keeps none. Values of four axes are turned to [N, C, H, W], and integers to what they mean.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate

    interpreter = Interpreter(
        model_path=str(path),
        experimental_delegates=[load_delegate(delegate_path(), {"fuse": "0"})],
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    step = int(source["shape"][0])
    count = read_tflite(path)[0].Subgraphs(0).TensorsLength()
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(images), step):
        part = images[start : start + step]
        part = np.concatenate([part, np.zeros((step - len(part), *part.shape[1:]), np.float32)])
        interpreter.set_tensor(source["index"], np.ascontiguousarray(part.transpose(0, 2, 3, 1)))
        interpreter.invoke()
        for details in interpreter.get_tensor_details():
            if (
                details["index"] < count  # behind them is what operators keep for themselves
                and details["name"]
                and details["dtype"] in (np.float32, np.int8)
                and len(details["shape"])
                and details["shape"][0] == step
            ):
                with suppress(ValueError):  # nothing computed it: it is within what the delegate runs
                    value = interpreter.get_tensor(details["index"])
                    if value.dtype == np.int8:
                        value = from_integers(value, Grid(*details["quantization"]))
                    value = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
                    found.setdefault(details["name"], []).append(value)
    return {name: np.concatenate(parts)[: len(images)] for name, parts in found.items()}


def images_at_once(path: str | Path) -> int:
    """How many images one inference of a .tflite file takes: the first axis of its first input.

    Raises:
        FsgError: no such file, not a .tflite file, or damaged content.
    """
    root, _ = read_tflite(path)
    try:
        graph = root.Subgraphs(0)
        source = graph.Tensors(graph.Inputs(0))
        return max(1, int(source.Shape(0))) if source.ShapeLength() > 1 else 1
    except DAMAGE as error:
        raise FsgError(f"{path}: truncated or damaged ({error}); export or copy it again") from error


def read_tflite(model: str | Path | bytes) -> tuple[Any, list[str]]:
    """The root of a .tflite file (a path or its content), and the operators' names by their code's index.

    Raises:
        FsgError: not a .tflite file, or damaged content.
    """
    from ai_edge_litert import schema_py_generated as schema

    name = "model" if isinstance(model, bytes) else str(model)
    content = model if isinstance(model, bytes) else read_bytes(model)
    check_identifier(name, content)
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


def check_identifier(name: str, content: bytes) -> None:
    """Raises FsgError, naming the file, unless the content begins as a .tflite file does."""
    if content[4:8] != b"TFL3":
        raise FsgError(f"{name}: not a .tflite file (its identifier TFL3 is missing); export or copy it again")
