"""Our own resnet20 with fresh weights, and its twins: python resnet20.py FOLDER.

Writes resnet20.tflite, resnet20.float.tflite, resnet20.int8.tflite and resnet20.float.onnx. The binary network is the
one that `fsg train` trains by default, the float one the ResNet of the same shapes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SHAPE = (3, 32, 32)


def graphs():
    """The binary graph and the float one, with statistics that give activations a spread."""
    import torch

    from fsg.export.recognise import simplify
    from fsg.export.trace import trace
    from fsg.training.networks.resnet import build_float_model, build_model

    torch.manual_seed(0)
    models = build_model("resnet20", classes=10), build_float_model("resnet20", classes=10)
    for model in models:
        model.train()(torch.randn(64, *SHAPE))
        model.eval()
    return [simplify(trace(model, SHAPE)) for model in models]


def write_float_tflite(graph_file: str, folder: str) -> None:
    """In a process of its own, for TensorFlow and PyTorch do not live well together."""
    import pickle

    import tensorflow as tf

    from fsg.export.formats.tflite.lce import tensorflow_function

    signature = [tf.TensorSpec([1, *SHAPE[1:], SHAPE[0]], tf.float32)]
    graph = pickle.loads(Path(graph_file).read_bytes())
    function = tf.function(tensorflow_function(graph), input_signature=signature).get_concrete_function()
    rng = np.random.default_rng(0)
    for kind in ("float", "int8"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        if kind == "int8":
            images = rng.standard_normal((20, 1, *SHAPE[1:], SHAPE[0])).astype(np.float32)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda images=images: ([image] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        Path(folder, f"resnet20.{kind}.tflite").write_bytes(converter.convert())


def main() -> None:
    import pickle

    from fsg.export.formats.onnx import to_onnx
    from fsg.export.formats.tflite.lower import lower
    from fsg.export.formats.tflite.write import to_tflite

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    binary, float32 = graphs()
    (folder / "resnet20.tflite").write_bytes(to_tflite(binary)[0])
    (folder / "resnet20.float.onnx").write_bytes(to_onnx(float32, {}))
    with tempfile.NamedTemporaryFile() as file:
        file.write(pickle.dumps(lower(float32)))
        file.flush()
        code = "import sys, resnet20; resnet20.write_float_tflite(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, file.name, folder], cwd=Path(__file__).parent, check=True)


if __name__ == "__main__":
    main()
