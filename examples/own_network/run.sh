#!/bin/sh
# Two networks of your own, from mynet.py in the current folder to model files.
set -eu

fsg summary mynet:make                                              # what becomes binary, what stays float, and why
fsg train --model mynet:make --dataset digits --epochs 3 --batch-size 32 --out runs/make
fsg export runs/make --format tflite --format onnx --format c --writer direct

fsg train --model mynet:make_binary --dataset digits --epochs 3 --out runs/make_binary
fsg export runs/make_binary --format tflite --format c --writer direct

fsg bench runs/make runs/make_binary
