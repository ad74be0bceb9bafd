"""Says what model.tflite sees on pictures, on a Raspberry Pi or anywhere: python on_the_board.py PICTURE..."""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate
from PIL import Image, ImageOps

import fsg.runtime
from fsg.runtime.model.metadata import read_metadata

classes = read_metadata("model.tflite")["class_names"]
interpreter = Interpreter("model.tflite", experimental_delegates=[load_delegate(fsg.runtime.delegate_path())])
interpreter.allocate_tensors()
(pixels,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
_, height, width, _ = pixels["shape"]
for name in sys.argv[1:]:
    picture = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    side = min(picture.size)  # the middle, as --image-size took it
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.resize((width, height), Image.Resampling.BOX, (left, top, left + side, top + side))
    interpreter.set_tensor(pixels["index"], np.asarray(picture)[None])  # uint8, 0 to 255, as a camera gives them
    interpreter.invoke()
    print(name, classes[interpreter.get_tensor(scores["index"]).argmax()])
