"""Files nobody should have written: every one ends in an error, none in a crash."""

import subprocess
import sys
from pathlib import Path

import lce
import numpy as np
import pytest

from fsg import FsgError
from fsg.runtime.model.metadata import read_metadata
from fsg.runtime.model.session import open_model
from fsg.runtime.model.tflite import op_counts

ONES = np.ones(3, np.float32)
WEIGHTS = np.random.default_rng(0).choice([-1, 1], (3, 3, 3, 20))


def test_damaged_options_do_not_crash():
    script = Path(lce.__file__).with_name("hostile_options.py")
    child = subprocess.run([sys.executable, script, "1"], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    refused, ran = map(int, child.stdout.split())
    assert refused > 500  # truncation always loses something; a flipped bit may still be a valid option
    assert ran < refused


def build(conv=None, shape=(1, 6, 6, 1), dtype=np.float32, edit=None, **options):
    graph = lce.Graph()
    source = graph.tensor(shape, np.int32)
    conv = conv or lce.Conv(WEIGHTS, **options)
    output = graph.conv(source, conv, ONES, ONES, np.zeros(3, np.int32), dtype=dtype)
    if edit is not None:
        edit(graph, graph.operators[0])
    return graph.build([source], [output])


def without_input(index):
    def edit(graph, operator):
        operator.inputs[index] = -1

    return edit


def swapped_filter(shape):
    def edit(graph, operator):
        operator.inputs[1] = graph.constant(np.zeros(shape, np.int32))

    return edit


def retyped(tensor, kind):
    def edit(graph, operator):
        index = operator.outputs[0] if tensor == "output" else operator.inputs[tensor]
        graph.tensors[index].type = lce.TYPES[np.dtype(kind)]

    return edit


def variable_filter(graph, operator):
    operator.inputs[1] = graph.tensor([3, 3, 3, 1], np.int32)


def too_few_inputs(graph, operator):
    operator.inputs = operator.inputs[:3]


def short_bias(graph, operator):
    operator.inputs[3] = graph.constant(ONES[:2])


def with_options(**changes):
    known = dict.fromkeys(("stride_height", "stride_width", "dilation_height_factor", "dilation_width_factor"), 1)

    def edit(graph, operator):
        options = {**known, "channels_in": 20, "padding": 0, **changes}
        kept = {name: value for name, value in options.items() if value is not None}
        operator.customOptions = np.frombuffer(lce.flexmap(**kept), np.uint8)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without_input(0), "input tensor is missing"),
        (without_input(1), "filter tensor is missing"),
        (without_input(2), "multiplier tensor is missing"),
        (too_few_inputs, "3 inputs and 1 outputs"),
        (swapped_filter((3, 3, 3, 2)), "filter of 2 words for an input of 1"),
        (swapped_filter((3, 9, 9, 1)), "9x9 filter does not fit a 6x6 image"),
        (swapped_filter((3, 3, 1)), r"filter must be packed int32 \[O,H,W,I\]"),
        (variable_filter, "filter must be a constant"),
        (short_bias, "bias of 2 values for 3 output channels"),
        (retyped(3, np.int32), "bias of type 2, not 1"),
        (retyped("output", np.bool_), "output of type 6"),
        (retyped("output", np.int8), "int8 output without a scale"),
        (retyped(0, np.float32), "input must be packed int32"),
        (with_options(channels_in=None), "no option channels_in"),
        (with_options(channels_in=33), "input of 1 words a pixel for 33 channels"),
        (with_options(channels_in=0), "option channels_in is out of range"),
        (with_options(stride_height=0), "option stride_height is out of range"),
        (with_options(stride_width=-1), "option stride_width is out of range"),
        (with_options(padding=2), "option padding is out of range"),
        (with_options(fused_activation_function=4), "fused_activation_function is out of range"),
        (with_options(dilation_height_factor=2**31), "dilation_height_factor is out of range"),
        (with_options(dilation_height_factor=2**31 - 1), "does not fit"),
    ],
)
def test_wrong_convolutions_end_in_an_error(edit, message):
    with pytest.raises(RuntimeError, match=message):
        lce.interpret(build(edit=edit, padding=1))


def test_valid_padding_of_a_large_dilation_does_not_fit():
    with pytest.raises(RuntimeError, match="does not fit"):
        lce.interpret(build(edit=with_options(padding=1, dilation_width_factor=2**29)))


def test_missing_thresholds():
    with pytest.raises(RuntimeError, match="thresholds tensor is missing"):
        lce.interpret(build(dtype=np.int32, edit=without_input(4)))


def test_a_batch_beyond_2_to_the_31_elements():
    interpreter = lce.interpret(build())
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, [2**28, 6, 6, 1])
    with pytest.raises(RuntimeError):
        interpreter.allocate_tensors()


@pytest.mark.parametrize(("channels", "dtype"), [(33, np.float32), (0, np.float32), (20, np.int32)])
def test_wrong_dequantize(channels, dtype):
    graph = lce.Graph()
    source = graph.tensor([1, 4, 1], np.int32)
    with pytest.raises((RuntimeError, ValueError)):
        lce.interpret(graph.build([source], [graph.dequantize(source, channels, dtype)]))


def test_wrong_quantize_and_pool():
    graph = lce.Graph()
    source = graph.tensor([1, 4, 4, 8], np.int32)
    with pytest.raises(RuntimeError, match="LceQuantize: input of type 2"):
        lce.interpret(graph.build([source], [graph.quantize(source)]))
    graph = lce.Graph()
    source = graph.tensor([1, 4, 4, 8], np.float32)
    with pytest.raises(RuntimeError, match="LceBMaxPool2d: input and output must be packed"):
        lce.interpret(graph.build([source], [graph.max_pool(source, (2, 2), (2, 2), 0)]))


def test_truncated_files_are_refused_in_one_line(tmp_path):
    model = build()
    path = tmp_path / "model.tflite"
    for cut in range(0, len(model), 7):
        path.write_bytes(model[:cut])
        with pytest.raises(FsgError) as caught:
            open_model(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_files_raise_nothing_else(tmp_path):
    model = np.frombuffer(build(), np.uint8)
    path = tmp_path / "model.tflite"
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = model.copy()
        damaged[rng.integers(8, len(model), 4)] = rng.integers(256, size=4)
        path.write_bytes(damaged.tobytes())
        for read in (read_metadata, op_counts):
            try:
                read(path)
            except FsgError as error:
                assert str(path) in str(error) and "\n" not in str(error)
