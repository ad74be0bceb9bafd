"""Model files for another number of images at once, for measurements: their shapes are rewritten, and the results
compared with the file's own."""

from pathlib import Path
from typing import Any

import numpy as np

from fsg import FsgError
from fsg.runtime.model.files import DAMAGE, model_format, read_bytes
from fsg.runtime.model.session import Session, open_model
from fsg.runtime.model.tflite import pack_tflite, read_tflite

SHAPES = {"RESHAPE": 1, "BROADCAST_TO": 1, "SLICE": 2, "STRIDED_SLICE": 2}
"""Which input of an operator of a .tflite file is a shape, or where it ends."""
JOINING = ("CONCATENATION", "PACK")
"""Operators of a .tflite file that do not broadcast constants."""
CLOSE = 1e-3
"""How far apart results may be, in units of the largest: libraries add up batches in other orders."""


def write_batched(path: Path, batch: int, target: Path) -> None:
    """Writes the .tflite or .onnx file `path`, for one image, as one for `batch` images to `target`.

    Errors: FsgError for other files, for packages that are missing, and where the results are not those of the file.
    """
    form = model_format(path)
    if batch < 1:
        raise FsgError(f"{path}: cannot be measured with {batch} images at once; give at least 1")
    refused = f"{path}: cannot be measured with {batch} image{'s' * (batch > 1)} at once"
    if form not in ("tflite", "onnx"):
        raise FsgError(f"{refused}, which .tflite and .onnx files can: leave --batch away")
    session = open_model(path)
    if session.batch == batch and (batch > 1 or form == "tflite"):
        target.write_bytes(read_bytes(path))
        return
    if session.batch != 1:
        raise FsgError(f"{refused}, for it takes {session.batch}: export it with --batch 1")
    images = np.random.default_rng(0).standard_normal((min(batch, 4), *session.input_shape), np.float32)
    try:
        target.write_bytes(_tflite(path, batch) if form == "tflite" else _onnx(path, batch))
        found = open_model(target)
        differs = found.batch != batch or not _agree(session, found, images)
    except (FsgError, *DAMAGE) as error:
        again = f"export it with --batch {batch}, and measure that file"
        raise FsgError(f"{refused} ({' '.join(str(error).split())[:200]}): {again}") from error
    if differs:
        raise FsgError(f"{refused}: its results would be others; export it with --batch {batch}, and measure that file")


def _agree(one: Session, several: Session, images: np.ndarray) -> bool:
    expected = one(images)
    return bool(np.abs(several(images) - expected).max() <= CLOSE * max(1e-9, float(np.abs(expected).max())))


def _tflite(path: Path, batch: int) -> bytes:
    """What is computed is `batch` times as long on its first axis, and so is what operators are told of such shapes."""
    from ai_edge_litert import schema_py_generated as schema

    root, names = read_tflite(path)
    model: Any = schema.ModelT.InitFromObj(root)
    (graph,) = model.subgraphs
    computed = set(map(int, graph.inputs))  # of images, not of constants alone
    for operator in graph.operators:
        computed |= set(map(int, operator.outputs)) if computed & set(map(int, operator.inputs)) else set()
    first = {i: int(graph.tensors[i].shape[0]) for i in computed if len(graph.tensors[i].shape)}
    for i, length in first.items():
        graph.tensors[i].shape = np.array([length * batch, *graph.tensors[i].shape[1:]], np.int32)
        graph.tensors[i].shapeSignature = None
    for operator in graph.operators:
        name = names[operator.opcodeIndex]
        if int(operator.outputs[0]) not in first:
            continue
        if name in JOINING:
            operator.inputs = [
                i if int(i) in first else _several(schema, model, graph, int(i), batch) for i in operator.inputs
            ]
        place = SHAPES.get(name)
        if place is None:
            continue
        length = first[int(operator.outputs[0])]
        options = operator.builtinOptions
        if getattr(options, "newShape", None) is not None and len(options.newShape) and options.newShape[0] == length:
            options.newShape = np.array([length * batch, *options.newShape[1:]], np.int32)
        if place < len(operator.inputs):
            operator.inputs = list(operator.inputs)
            operator.inputs[place] = _longer(schema, model, graph, int(operator.inputs[place]), length, batch)
    return pack_tflite(model)


def _several(schema: Any, model: Any, graph: Any, number: int, batch: int) -> int:
    """The number of a constant like that of a number, once for each image of a batch."""
    tensor = graph.tensors[number]
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data) or not len(tensor.shape):
        return number
    shape = np.array([tensor.shape[0] * batch, *tensor.shape[1:]], np.int32)
    return _added(schema, model, graph, number, np.tile(np.asarray(data, np.uint8), batch), shape=shape)


def _longer(schema: Any, model: Any, graph: Any, number: int, length: int, batch: int) -> int:
    """The number of a constant shape like that of a number, but for a batch."""
    data = model.buffers[graph.tensors[number].buffer].data
    if data is None or not len(data):
        return number
    shape = np.frombuffer(bytes(data), np.int32).copy()
    if shape[0] != length:  # -1: whatever is left
        return number
    shape[0] = length * batch
    return _added(schema, model, graph, number, np.frombuffer(shape.tobytes(), np.uint8))


def _added(schema: Any, model: Any, graph: Any, number: int, data: np.ndarray, **changes: Any) -> int:
    """The number of a new constant, like that of a number but for its data and other changes."""
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = data
    vars(tensor).update(vars(graph.tensors[number]), buffer=len(model.buffers), **changes)
    model.buffers.append(buffer)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _onnx(path: Path, batch: int) -> bytes:
    """The input's first axis is `batch`, and reshapes take as many as there are."""
    try:
        import onnx
    except ImportError as error:
        raise FsgError("this needs the package onnx: pip install 'fsg[export]'") from error
    model = onnx.load(path)
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    constants = {constant.name: constant for constant in graph.initializer}
    computed = {value.name for value in graph.input}
    for node in graph.node:
        depends = any(name in computed for name in node.input)
        computed |= set(node.output) if depends else set()
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" and depends else None
        if shape is not None and (numbers := onnx.numpy_helper.to_array(shape))[0] == 1:
            free = onnx.numpy_helper.from_array(np.array([0, *numbers[1:]], np.int64), f"{shape.name}.batch")
            if free.name not in constants:
                constants[free.name] = free
                graph.initializer.append(free)
            node.input[1] = free.name
    return bytes(model.SerializeToString())
