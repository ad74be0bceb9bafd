"""Run as a program by models.py: one model in one runtime, timed on request.

python model_worker.py RUNTIME MODEL THREADS [LIBRARY], where RUNTIME is fsg, fsg-unfused, xnnpack, lce, lce-xnnpack or
onnxruntime. After a warm-up it prints "ready"; for every number N that it reads it prints the seconds of N inferences.
It imports nothing of fsg: it runs in LCE's environment too.
"""

import sys
import time

import numpy as np


def tflite(runtime, model, threads, library):
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    options = {"fuse": "0" if runtime == "fsg-unfused" else "1", "num_threads": str(threads)}
    delegates = [load_delegate(library, options)] if runtime != "xnnpack" else []
    interpreter = Interpreter(model, num_threads=threads, experimental_delegates=delegates)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs(detail["shape"]).astype(detail["dtype"]))
    return interpreter.invoke


def lce(runtime, model, threads, _):
    from larq_compute_engine.tflite.python.interpreter_wrapper_lite import LiteInterpreter

    with open(model, "rb") as file:
        interpreter = LiteInterpreter(file.read(), threads, False, False, runtime == "lce-xnnpack")
    images = [inputs(shape) for shape in interpreter.input_shapes]
    return lambda: interpreter.predict(images)


def onnx(_, model, threads, __):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {value.name: inputs(value.shape) for value in session.get_inputs()}
    return lambda: session.run(None, feed)


def inputs(shape):
    return np.random.default_rng(0).standard_normal(tuple(shape)).astype(np.float32)


RUNTIMES = {
    "fsg": tflite,
    "fsg-unfused": tflite,
    "xnnpack": tflite,
    "lce": lce,
    "lce-xnnpack": lce,
    "onnxruntime": onnx,
}


def main() -> None:
    runtime, model, threads, *rest = sys.argv[1:]
    invoke = RUNTIMES[runtime](runtime, model, int(threads), *(rest or [""]))
    for _ in range(3):
        invoke()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            invoke()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
