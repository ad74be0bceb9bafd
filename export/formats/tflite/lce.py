"""Builds a TensorFlow function from a BinaryGraph and has LCE convert it.

Every operation is spelled in the one way that LCE's converter is known to recognise; others become float operations or
wrong results without a warning.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from fsg.export import graph as g
from fsg.export.elementwise import OPERATORS
from fsg.export.passes import is_same


def tensorflow_function(graph: g.BinaryGraph) -> Callable[[Any], Any]:
    """A function of one float tensor [1, H, W, C] that computes the lowered graph with TensorFlow operations."""
    import tensorflow as tf

    def compute(node: g.Node, inputs: list[Any]) -> Any:
        x = inputs[0]
        match node:
            case g.Sign():
                return tf.where(x >= 0, 1.0, -1.0)
            case g.Negative():
                return tf.nn.relu6(x * -node.gain)
            case g.Conv():
                padding = "SAME" if node.padding != (0, 0) and is_same(node, tuple(x.shape[1:3])) else "VALID"
                if padding == "VALID" and node.padding != (0, 0):
                    x = pad_with_zeros(x, node.padding)
                return conv2d(x, node.weight, node, padding) + node.bias
            case g.BinaryConv():
                padding = "VALID"
                if node.padding != (0, 0) and node.padding_value == 1:
                    rows, columns = node.padding
                    x = tf.pad(x, [[0, 0], [rows, rows], [columns, columns], [0, 0]], constant_values=1.0)
                elif node.padding != (0, 0):
                    padding = "SAME"
                return conv2d(x, node.signs(), node, padding) * node.scale + node.bias
            case g.Dense():
                return tf.matmul(x, node.weight.T) + node.bias
            case g.Affine():
                return x * node.scale + node.bias
            case g.Elementwise():
                written = OPERATORS[node.operator].tensorflow
                assert written is not None  # see `lower.is_known`
                return written(tf, x, node.settings)
            case g.Arithmetic(operator="add") if x.shape == inputs[1].shape:
                return x + inputs[1]
            case g.Concat(axis=1):
                return tf.concat(inputs, -1)
            case g.Pad():
                top, bottom, left, right = node.padding
                sides = [[0, 0], [top, bottom], [left, right], list(node.channels)]
                return tf.pad(x, sides, constant_values=node.value)
            case g.MaxPool():
                return tf.nn.max_pool2d(x, node.kernel, node.stride, "VALID")
            case g.AveragePool():
                return tf.nn.avg_pool2d(x, node.kernel, node.stride, "VALID")
            case g.Reduce(operator="mean", axes=(2, 3)):
                return tf.reduce_mean(x, axis=[1, 2], keepdims=len(node.shape) == 4)
            case g.Reshape():
                if len(x.shape) == 4 and x.shape[1] * x.shape[2] > 1:
                    x = tf.transpose(x, [0, 3, 1, 2])
                return tf.reshape(x, [1, 1, 1, -1] if len(node.shape) == 4 else [1, -1])
        raise TypeError(f"no TensorFlow operation for {type(node).__name__} {node.name}")

    def pad_with_zeros(x: Any, padding: g.Pair) -> Any:
        """All by a pad but the last row or column, which is joined on.

        LCE's converter takes a pad in front of a convolution for SAME padding where only the sizes are the same.
        """
        rows, columns = padding
        axis = 1 if rows else 2
        amounts = [[0, 0], [rows, rows], [columns, columns], [0, 0]]
        amounts[axis][1] -= 1
        x = tf.pad(x, amounts)
        shape = list(x.shape)
        shape[axis] = 1
        return tf.concat([x, tf.zeros(shape)], axis)

    def conv2d(x: Any, weight: np.ndarray, node: g.Convolution, padding: str) -> Any:
        filters = weight.transpose(2, 3, 1, 0)
        return tf.nn.conv2d(x, filters, node.stride, padding, dilations=node.dilation)

    def function(image: Any) -> Any:
        values = {graph.nodes[0].name: image}
        for node in graph.nodes[1:]:
            values[node.name] = compute(node, [values[name] for name in node.inputs])
        return values[graph.nodes[-1].name]

    return function


def convert(graph: g.BinaryGraph) -> bytes:
    """The .tflite file of a lowered graph."""
    import larq_compute_engine as lce
    import tensorflow as tf

    _, channels, height, width = graph.nodes[0].shape
    function = tf.function(
        tensorflow_function(graph),
        input_signature=[tf.TensorSpec([1, height, width, channels], tf.float32, name="image")],
    )
    module = tf.Module()
    module.function = function
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=function.get_concrete_function())
        return lce.convert_saved_model(folder)
