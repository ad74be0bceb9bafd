"""Converts a BinaryGraph with TensorFlow Lite's own converter, to float32 or int8."""

from collections.abc import Iterator

from fsg.export.formats.tflite.lce import tensorflow_function
from fsg.export.graph import BinaryGraph, Floats


def convert(graph: BinaryGraph, numbers: str, images: Floats) -> bytes:
    """The .tflite file of a graph; int8 finds its scales on `images`, input and output stay float32."""
    import tensorflow as tf

    _, channels, height, width = graph.nodes[0].shape
    signature = [tf.TensorSpec([1, height, width, channels], tf.float32, name="image")]
    function = tf.function(tensorflow_function(graph), input_signature=signature).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if numbers == "int8":

        def calibration() -> Iterator[list[Floats]]:
            for image in images:
                yield [image[None].transpose(0, 2, 3, 1)]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = calibration
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()
