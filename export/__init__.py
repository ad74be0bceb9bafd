"""From a trained run to verified artefacts: TensorFlow Lite with Larq Compute Engine operators, and ONNX."""
