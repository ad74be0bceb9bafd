"""BinaryGraph -> ONNX of standard operators, the weights of binary layers stored as packed bits."""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from fsg import FsgError, __version__
from fsg.export import graph as g
from fsg.export.elementwise import ARITHMETIC, OPERATORS
from fsg.export.int8 import KEEP, in_int8
from fsg.runtime.model.contents import UINT8

OFFSET = 128
"""Of uint8 from int8."""

OLDEST_OPSET = 13
"""Before, Softmax meant something else."""


def to_onnx(
    graph: g.BinaryGraph,
    metadata: dict[str, Any],
    *,
    opset: int | None = None,
    batch: int | None = 1,
    integer_ends: bool = False,
) -> bytes:
    """Converts a graph for batches of `batch` images, or of any number (None).

    Input "image" [N, C, H, W], uint8 of a graph of `passes.on_pixels`, output "logits" [N, classes]; both uint8 with
    `integer_ends`, of a graph of `int8.with_integer_ends`.

    A binary layer's weights are one uint8 initialiser [O, ceil(I * KH * KW / 8), 1], first weight in the highest
    bit, 1 for negative. A few operators on constants expand it to -1 and +1; runtimes fold them when they load it.
    `metadata` is stored as JSON under the key "fsg". The file says `opset`, or the oldest that has its operators, so
    that older runtimes load it. Errors: FsgError where onnx is missing, or has no such opset, or the opset not all of
    the operators.
    """
    try:
        import onnx
    except ImportError as error:
        raise FsgError("ONNX export needs the package onnx: pip install 'fsg[export]'") from error
    graph = _with_named_ends(graph)
    builder = _Builder(onnx, batch, {node.name: node.shape for node in graph.nodes}, _between_grids(graph))
    ends = (graph.nodes[1], graph.nodes[-1]) if integer_ends else ()
    first, *others = graph.nodes
    takes_pixels = isinstance(first, g.Pixels)
    if takes_pixels:
        numbers = builder.emit("Cast", [first.name], f"{first.name}.numbers", to=onnx.TensorProto.FLOAT)
        others[0] = replace(others[0], inputs=(numbers,))
    for node in others:
        if node in ends and isinstance(node, g.Quantize):
            builder.end_on_grid(node, at_entry=node is graph.nodes[1])
        else:
            builder.add(node)

    def tensor(node: g.Node, is_whole: bool) -> Any:
        shape = ["N" if batch is None else batch, *node.shape[1:]]
        kind = onnx.TensorProto.UINT8 if is_whole else onnx.TensorProto.FLOAT
        return onnx.helper.make_tensor_value_info(node.name, kind, shape)

    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            builder.nodes,
            "fsg",
            [tensor(first, integer_ends or takes_pixels)],
            [tensor(graph.nodes[-1], integer_ends)],
            builder.constants,
        ),
        producer_name="fsg",
        producer_version=__version__,
    )
    version = onnx.helper.make_opsetid("", _opset(onnx, model, opset))
    model.ir_version = onnx.helper.find_min_ir_version_for([version])
    model.opset_import[0].CopyFrom(version)
    onnx.helper.set_model_props(model, {"fsg": json.dumps(metadata)})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _between_grids(graph: g.BinaryGraph) -> set[str]:
    """Layers in float that read numbers of a grid and whose results are rounded to one, maybe behind a ReLU."""
    rounded = {node.inputs[0] for node in graph.nodes if isinstance(node, g.Quantize)}
    rounded |= {node.inputs[0] for node in graph.nodes if isinstance(node, g.Elementwise) and node.name in rounded}
    known: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, (g.Int8Layer, g.Quantize)) or (isinstance(node, KEEP) and node.inputs[0] in known):
            known.add(node.name)
    layers = (node for node in graph.nodes if isinstance(node, (g.Conv, g.TransposedConv, g.Dense)))
    return {node.name for node in layers if node.name in rounded and node.inputs[0] in known}


def _opset(onnx: Any, model: Any, wanted: int | None) -> int:
    """The version of the operators that a model is to say: `wanted`, or the oldest that has all of its operators."""
    newest = onnx.defs.onnx_opset_version()
    if wanted is not None and wanted > newest:
        raise FsgError(f"--opset {wanted}: onnx {onnx.__version__} knows none newer than {newest}; ask for less")
    kinds = {value.name: onnx.TensorProto.DataType.Name(value.data_type).lower() for value in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kinds[value.name] = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    oldest, by = max((_since(onnx, node, kinds, newest), node.op_type) for node in model.graph.node)
    if wanted is not None and wanted < oldest:
        raise FsgError(f"--opset {wanted}: this network needs at least {oldest}, which first has its {by}")
    return wanted or oldest


def _since(onnx: Any, node: Any, kinds: dict[str, str], newest: int) -> int:
    """The first version of the operators, of those that count here, that has a node with its inputs and attributes."""

    def holds(version: int) -> bool:
        try:
            schema = onnx.defs.get_schema(node.op_type, version)
        except onnx.defs.SchemaError:  # of a later version
            return False
        inputs = list(schema.inputs)
        if not schema.min_input <= len(node.input) <= schema.max_input:
            return False
        inputs += inputs[-1:] * (len(node.input) - len(inputs))  # the last of a variadic operator's
        return all(attribute.name in schema.attributes for attribute in node.attribute) and all(
            f"tensor({kinds[name]})" in taken.types for name, taken in zip(node.input, inputs, strict=False) if name
        )

    return next(version for version in range(OLDEST_OPSET, newest + 1) if holds(version))


def _with_named_ends(graph: g.BinaryGraph) -> g.BinaryGraph:
    """The same graph with an input called "image" and an output called "logits"."""
    names = {"image": "image.value", "logits": "logits.value"}  # a layer in between may be called so
    names |= {graph.nodes[0].name: "image", graph.nodes[-1].name: "logits"}

    def named(name: str) -> str:
        return names.get(name, name)

    return g.BinaryGraph(
        tuple(replace(node, name=named(node.name), inputs=tuple(map(named, node.inputs))) for node in graph.nodes)
    )


class _Builder:
    """Collects ONNX nodes and initialisers."""

    def __init__(
        self, onnx: Any, batch: int | None, shapes: dict[str, tuple[int, ...]], between_grids: set[str]
    ) -> None:
        self.onnx, self.shapes, self.between_grids = onnx, shapes, between_grids
        self.batch = batch or 0  # to a Reshape 0 says: as many as there are
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.shared_names: set[str] = set()

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def shared(self, name: str, value: Any) -> str:
        """A constant that several nodes may use; no layer's name has a colon."""
        name = f"const:{name}"
        if name not in self.shared_names:
            self.shared_names.add(name)
            self.constant(name, value)
        return name

    def emit(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def signs(self, name: str, negative: np.ndarray) -> str:
        """Stores the bits and expands them to a float tensor of the same shape."""
        rows, size = len(negative), negative[0].size
        packed = np.packbits(negative.reshape(rows, -1), axis=1)
        bits = self.emit(
            "BitwiseAnd",
            [
                self.constant(f"{name}.packed", packed[:, :, None]),
                self.shared("bit_masks", np.array([128, 64, 32, 16, 8, 4, 2, 1], np.uint8)),
            ],
            f"{name}.bits",
        )
        flags = self.emit("Cast", [bits], f"{name}.negative", to=self.onnx.TensorProto.BOOL)
        shape = self.shared(f"shape_{rows}", np.array([rows, -1], np.int64))
        flags = self.emit("Reshape", [flags, shape], f"{name}.rows")
        if size % 8:
            ends = [self.shared(f"int_{value}", np.array([value], np.int64)) for value in (0, size, 1)]
            flags = self.emit("Slice", [flags, *ends], f"{name}.cut")
        signs = self.minus_where(flags, f"{name}.signs")
        return self.emit("Reshape", [signs, self.shape(negative.shape)], f"{name}.weight")

    def minus_where(self, flags: str, output: str) -> str:
        """-1 where a flag is set, else +1."""
        ones = [self.shared("minus_one", np.float32(-1)), self.shared("plus_one", np.float32(1))]
        return self.emit("Where", [flags, *ones], output)

    def shape(self, dimensions: tuple[int, ...]) -> str:
        return self.shared(f"shape_{'x'.join(map(str, dimensions))}", np.array(dimensions, np.int64))

    def reshape(self, x: str, node: g.Node) -> None:
        self.emit("Reshape", [x, self.shape((self.batch, *node.shape[1:]))], node.name)

    def per_channel(self, name: str, value: np.ndarray, shape: tuple[int, ...]) -> str:
        return self.constant(name, value.reshape(-1, *[1] * (len(shape) - 2)))

    def scale_and_shift(self, x: str, node: g.BinaryLayer | g.Affine) -> None:
        # With a colon: a softplus, read as several nodes, has one called .scaled.
        scaled = self.emit(
            "Mul", [x, self.per_channel(f"{node.name}.scale", node.scale, node.shape)], f"{node.name}:scaled"
        )
        self.emit("Add", [scaled, self.per_channel(f"{node.name}.bias", node.bias, node.shape)], node.name)

    def elementwise(self, x: str, op: str, attributes: dict[str, float], output: str) -> str:
        if op != "Clip":
            return self.emit(op, [x], output, **attributes)
        bounds = (self.shared(f"value_{value}", np.float32(value)) for value in attributes.values())
        return self.emit(op, [x, *bounds], output)

    def pad(self, x: str, sides: g.Sides, value: float, output: str, channels: g.Pair = (0, 0)) -> str:
        top, bottom, left, right = sides
        amounts = self.shape((0, channels[0], top, left, 0, channels[1], bottom, right))
        return self.emit("Pad", [x, amounts, self.shared(f"value_{value}", np.float32(value))], output)

    def pool(self, op: str, node: g.Pool, **attributes: int) -> str:
        top, bottom, left, right = node.padding
        window: dict[str, Any] = {
            "kernel_shape": node.kernel,
            "strides": node.stride,
            "pads": [top, left, bottom, right],
        }
        return self.emit(op, [node.inputs[0]], node.name, **window, **attributes)

    def conv(self, x: str, weight: str, node: g.Convolution, padding: g.Pair, output: str, *bias: str) -> str:
        return self.emit(
            "Conv",
            [x, weight, *bias],
            output,
            strides=node.stride,
            pads=[*padding, *padding],
            dilations=node.dilation,
            group=node.groups,
        )

    def take(self, x: str, node: g.Take) -> None:
        """A slice where the places are a range, else a gather."""
        steps = set(np.diff(node.index).tolist()) or {1}
        if len(steps) > 1 or (step := steps.pop()) < 1:
            index = self.constant(f"{node.name}.index", np.array(node.index, np.int64))
            self.emit("Gather", [x, index], node.name, axis=node.axis)
            return
        ends = (node.index[0], node.index[-1] + 1, node.axis, step)
        self.emit("Slice", [x, *(self.shared(f"int_{end}", np.array([end], np.int64)) for end in ends)], node.name)

    def resize(self, x: str, node: g.Resize) -> None:
        if node.mode == "nearest":
            how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
        else:
            place = "align_corners" if node.align_corners else "half_pixel"
            how = {"coordinate_transformation_mode": place, "mode": "linear"}
        self.emit("Resize", [x, "", "", self.shape(node.shape[2:])], node.name, axes=[2, 3], **how)

    def weights(self, name: str, weight: g.Floats, *, turned: bool = False) -> str:
        """A float layer's weights [O, ...], or [I, O]; stored as int8 where they are exactly that.

        Not by DequantizeLinear, in which ONNX Runtime sees leave to compute in int8.
        """
        found = in_int8(weight)
        if found is None:
            return self.constant(f"{name}.weight", np.ascontiguousarray(weight.T) if turned else weight)
        whole, steps = found[0], found[1].reshape(-1, *[1] * (weight.ndim - 1))
        if turned:
            whole, steps = np.ascontiguousarray(whole.T), steps.T
        numbers = self.emit(
            "Cast", [self.constant(f"{name}.int8", whole)], f"{name}.whole", to=self.onnx.TensorProto.FLOAT
        )
        return self.emit("Mul", [numbers, self.constant(f"{name}.step", steps)], f"{name}.weight")

    def on_grid(self, x: str, node: g.Int8Layer | g.Quantize) -> None:
        """A value as the nearest of its grid: of uint8, with weights of which ONNX Runtime is exact on every x86."""
        grid = self.grid(node)
        whole = self.emit("QuantizeLinear", [x, *grid], f"{node.name}.whole")
        self.emit("DequantizeLinear", [whole, *grid], node.name)

    def end_on_grid(self, node: g.Quantize, *, at_entry: bool) -> None:
        """The first or the last rounding of a network that takes and gives integers."""
        operator = "DequantizeLinear" if at_entry else "QuantizeLinear"
        self.emit(operator, [node.inputs[0], *self.grid(node)], node.name)

    def grid(self, node: g.Int8Layer | g.Quantize) -> list[str]:
        """The step of a result, and where 0 is among uint8."""
        return [
            self.shared(f"value_{node.step}", np.float32(node.step)),
            self.shared(f"place_{node.zero}", np.uint8(node.zero + OFFSET)),
        ]

    def integers(self, node: g.Int8Layer, *, turned: bool = False) -> list[str]:
        """The weights and the bias of a layer on integers, as the numbers that they mean."""
        name = node.name
        whole = (node.weight.astype(np.int16) + OFFSET).astype(np.uint8)
        steps = self.constant(f"{name}.step", node.weight_step)
        zeros = self.shared(f"places_{len(whole)}", np.full(len(whole), OFFSET, np.uint8))
        stored = self.constant(f"{name}{UINT8}", np.ascontiguousarray(whole.T) if turned else whole)
        weight = self.emit("DequantizeLinear", [stored, steps, zeros], f"{name}.weight", axis=int(turned))
        units = self.constant(f"{name}.unit", np.float32(node.source_step) * node.weight_step)
        bias = self.constant(f"{name}.int32", node.bias)
        return [weight, self.emit("DequantizeLinear", [bias, units], f"{name}.bias", axis=0)]

    def transposed_conv(self, x: str, node: g.TransposedConv) -> None:
        self.emit(
            "ConvTranspose",
            [x, self.constant(f"{node.name}.weight", node.weight), self.constant(f"{node.name}.bias", node.bias)],
            node.name,
            strides=node.stride,
            pads=[*node.padding, *node.padding],
            output_padding=node.output_padding,
            dilations=node.dilation,
            group=node.groups,
        )

    def add(self, node: g.Node) -> None:
        """Adds the operators for one node; its value gets the node's name."""
        name, x = node.name, (*node.inputs, "")[0]
        if name in self.between_grids:  # ONNX Runtime would round its weights
            x = self.emit("Clip", [x, self.shared("lowest", np.finfo(np.float32).min)], f"{name}.source")
        match node:
            case g.Sign():
                zero = self.shared("zero", np.float32(0))
                self.minus_where(self.emit("Less", [x, zero], f"{name}.negative"), name)
            case g.Conv():
                weight = self.weights(name, node.weight)
                self.conv(x, weight, node, node.padding, name, self.constant(f"{name}.bias", node.bias))
            case g.Quantize():
                self.on_grid(x, node)
            case g.Int8Conv():
                weight, bias = self.integers(node)
                self.on_grid(self.conv(x, weight, node, node.padding, f"{name}.sum", bias), node)
            case g.Int8Dense() if len(node.shape) == 2:
                self.on_grid(self.emit("Gemm", [x, *self.integers(node)], f"{name}.sum", transB=1), node)
            case g.Int8Dense():
                weight, bias = self.integers(node, turned=True)
                product = self.emit("MatMul", [x, weight], f"{name}.product")
                self.on_grid(self.emit("Add", [product, bias], f"{name}.sum"), node)
            case g.BinaryConv():
                padding = node.padding
                if node.padding_value and any(padding):
                    x = self.pad(x, g.sides(node), node.padding_value, f"{name}.padded")
                    padding = (0, 0)
                weight = self.signs(name, node.negative)
                self.scale_and_shift(self.conv(x, weight, node, padding, f"{name}.sum"), node)
            case g.Dense():
                bias = self.constant(f"{name}.bias", node.bias)
                if len(node.shape) == 2:
                    self.emit("Gemm", [x, self.weights(name, node.weight), bias], name, transB=1)
                else:
                    weight = self.weights(name, node.weight, turned=True)
                    self.emit("Add", [self.emit("MatMul", [x, weight], f"{name}.sum"), bias], name)
            case g.BinaryDense():
                signs = self.signs(name, node.negative)
                if len(node.shape) == 2:
                    sums = self.emit("Gemm", [x, signs], f"{name}.sum", transB=1)
                else:
                    turned = self.emit("Transpose", [signs], f"{name}.turned", perm=(1, 0))
                    sums = self.emit("MatMul", [x, turned], f"{name}.sum")
                scale, bias = (self.constant(f"{name}.{part}", getattr(node, part)) for part in ("scale", "bias"))
                self.emit("Add", [self.emit("Mul", [sums, scale], f"{name}:scaled"), bias], name)
            case g.Affine():
                self.scale_and_shift(x, node)
            case g.Elementwise():
                self.elementwise(x, *OPERATORS[node.operator].onnx(node.settings), name)
            case g.Constant():
                self.constant(name, node.value)
            case g.Arithmetic():
                self.emit(ARITHMETIC[node.operator].onnx, list(node.inputs), name)
            case g.MatMul():
                self.emit("MatMul", list(node.inputs), name)
            case g.PReLU():
                slope = node.slope.reshape(-1, *[1] * (len(node.shape) - 2))
                self.emit("PRelu", [x, self.constant(f"{name}.slope", slope)], name)
            case g.Pad():
                self.pad(x, node.padding, node.value, name, node.channels)
            case g.Concat():
                self.emit("Concat", list(node.inputs), name, axis=node.axis)
            case g.MaxPool():
                self.pool("MaxPool", node)
            case g.AveragePool():
                self.pool("AveragePool", node, count_include_pad=1)
            case g.Reduce():
                axes = self.shared(f"axes_{'_'.join(map(str, node.axes))}", np.array(node.axes, np.int64))
                keep = int(len(node.shape) == len(self.shapes[x]))
                if node.operator == "mean" and node.axes == (2, 3) and keep:
                    self.emit("GlobalAveragePool", [x], name)
                else:
                    self.emit(f"Reduce{node.operator.title()}", [x, axes], name, keepdims=keep)
            case g.Softmax():
                self.emit("LogSoftmax" if node.log else "Softmax", [x], name, axis=node.axis)
            case g.Take():
                self.take(x, node)
            case g.Transpose():
                self.emit("Transpose", [x], name, perm=node.permutation)
            case g.Resize():
                self.resize(x, node)
            case g.TransposedConv():
                self.transposed_conv(x, node)
            case g.Reshape():
                self.reshape(x, node)
            case _:
                raise TypeError(f"no ONNX operator for {type(node).__name__} {name}")
