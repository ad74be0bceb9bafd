"""Run as a program by test_compatibility.py in an environment that holds an interpreter and NumPy, nothing of fsg.

python run_in_interpreter.py LIBRARY FOLDER OPTIONS: FOLDER/model.tflite on FOLDER/inputs.npy, batch by batch, with the
delegate in LIBRARY and its options (KEY=VALUE,...); writes FOLDER/outputs.npz.
"""

import sys

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter, load_delegate
except ImportError:
    try:
        from tflite_runtime.interpreter import Interpreter, load_delegate
    except ImportError:
        import tensorflow as tf

        Interpreter, load_delegate = tf.lite.Interpreter, tf.lite.experimental.load_delegate


def main() -> None:
    library, folder, options = sys.argv[1:]
    delegate = load_delegate(library, dict(pair.split("=") for pair in options.split(",") if pair))
    interpreter = Interpreter(model_path=f"{folder}/model.tflite", experimental_delegates=[delegate], num_threads=2)
    inputs = np.load(f"{folder}/inputs.npy")
    results = {}
    for batch in (1, len(inputs)):
        source = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(source, [batch, *inputs.shape[1:]])
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, inputs[:batch])
        interpreter.invoke()
        for i, detail in enumerate(interpreter.get_output_details()):
            results[f"batch{batch}-{i}"] = interpreter.get_tensor(detail["index"])
    np.savez(f"{folder}/outputs.npz", **results)


if __name__ == "__main__":
    main()
