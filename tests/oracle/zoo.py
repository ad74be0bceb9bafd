"""Run as a program in the oracle's environment: Larq Zoo networks with random weights as .tflite files.

python zoo.py FOLDER [--twins] [NAME[-SIZE] ...] writes FOLDER/NAME.tflite, with LCE's converter, for images of
224 x 224, or NAME-SIZE.tflite for images of SIZE x SIZE. With --twins also NAME.float.tflite, NAME.int8.tflite and
NAME.float.onnx: the same architecture without its quantisers, in float32 and in int8. Files that exist are left alone.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # larq knows Keras 2 only
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import larq as lq
import larq_compute_engine as lce
import larq_zoo.literature
import larq_zoo.sota
import numpy as np
import tensorflow as tf
import tf2onnx
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

NAMES = (
    "QuickNetSmall",
    "QuickNet",
    "QuickNetLarge",
    "BiRealNet",
    "RealToBinaryNet",
    "BinaryDenseNet28",
    "MeliusNet22",
    "BinaryAlexNet",
    "XNORNet",
)
MANY_WEIGHTS = 40_000_000
QUANTIZERS = ("input_quantizer", "kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer")


def network(name, size):
    """A network whose activations are spread as a trained one's are: its batch statistics are those of real inputs."""
    tf.keras.utils.set_random_seed(sum(name.encode()))
    module = larq_zoo.sota if hasattr(larq_zoo.sota, name) else larq_zoo.literature
    model = getattr(module, name)(input_shape=(size, size, 3), weights=None)
    rng = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one batch replaces the moving statistics
        if norm.scale:
            norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
        if norm.center:
            norm.beta.assign(rng.normal(0, 0.2, norm.beta.shape))
    model(images(rng, 4, size), training=True)
    return model


def images(rng, count, size):
    return rng.standard_normal((count, size, size, 3)).astype(np.float32)


def binary_tflite(model, size):
    """By way of one traced function: Keras's own saving, which convert_keras_model uses, traces every layer and its
    gradients several times over and takes five times as long.
    """
    signature = [tf.TensorSpec([1, size, size, 3], tf.float32)]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature, autograph=False)
    saved, scores = tf.Module(), function.get_concrete_function()
    if model.count_params() < MANY_WEIGHTS:  # many variables are slow to save, large constants slower
        saved.scores = scores = convert_variables_to_constants_v2(scores)
    else:
        saved.scores, saved.weights_of_model = function, model.variables
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(saved, folder, signatures=scores, options=options)
        return lce.convert_saved_model(folder)


def without_quantizers(model):
    def clone(layer):
        config = layer.get_config()
        config.update(dict.fromkeys(set(QUANTIZERS) & set(config)))
        if "pad_values" in config:
            config["pad_values"] = 0.0  # a float network pads with zeros, which costs it no operator
        if isinstance(layer, lq.quantizers.Quantizer):
            return tf.keras.layers.Activation("linear", name=layer.name)
        return type(layer).from_config(config)

    return tf.keras.models.clone_model(model, clone_function=clone)


def tflite(model, size, int8):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if int8:
        rng = np.random.default_rng(1)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([images(rng, 1, size)] for _ in range(2))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def onnx(model, size):
    signature = [tf.TensorSpec((1, size, size, 3), tf.float32)]
    return tf2onnx.convert.from_keras(model, signature, opset=17)[0].SerializeToString()


TWINS = {
    ".float.tflite": lambda model, size: tflite(model, size, int8=False),
    ".int8.tflite": lambda model, size: tflite(model, size, int8=True),
    ".float.onnx": onnx,
}


def write(path, content) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")  # a reader sees whole files only
    partial.write_bytes(content)
    partial.replace(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for argument in [a for a in sys.argv[2:] if a != "--twins"] or NAMES:
        name, _, given = argument.partition("-")
        size = int(given or 224)
        twins = TWINS if "--twins" in sys.argv[2:] else {}
        missing = [suffix for suffix in (".tflite", *twins) if not (folder / f"{argument}{suffix}").exists()]
        if not missing:
            continue
        model = network(name, size)
        twin = without_quantizers(model) if twins else None
        for suffix in missing:
            content = binary_tflite(model, size) if suffix == ".tflite" else twins[suffix](twin, size)
            write(folder / f"{argument}{suffix}", content)
        tf.keras.backend.clear_session()


if __name__ == "__main__":
    main()
