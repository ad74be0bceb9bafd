""".onnx files, opened by ONNX Runtime."""

from pathlib import Path
from typing import Any

from fsg import FsgError


def open_onnx(path: str | Path, *, num_threads: int = 1) -> Any:
    """An onnxruntime.InferenceSession on the CPU. FsgError where the file is refused, or onnxruntime is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise FsgError(f"{path}: ONNX models need onnxruntime: pip install 'fsg[export]'") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3  # errors only; they arrive as exceptions anyway
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's types share no base but Exception
        raise FsgError(f"{path}: ONNX Runtime refuses this model: {' '.join(str(error).split())}") from error


def onnx_property(session: Any, key: str) -> str | None:
    """A metadata property of an opened model; None where it has none of that name."""
    value = session.get_modelmeta().custom_metadata_map.get(key)
    return None if value is None else str(value)
