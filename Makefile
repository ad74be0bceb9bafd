PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
LIBRARIES := runtime/libfsg_delegate.so training/libfsg_training.so
CPP := $(wildcard runtime/native/*.cc runtime/native/*.h training/native/*.cc training/native/*.h tests/benchmarks/*.c*)

.PHONY: setup demo test lint format clean

setup: $(VENV)/installed $(LIBRARIES)

$(VENV)/installed: constraints.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt setuptools ziglang
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

# The installation builds the libraries; this is for edits of their sources.
runtime/libfsg_delegate.so: $(wildcard runtime/native/*)
training/libfsg_training.so: $(wildcard training/native/*) runtime/native/processor.h
$(LIBRARIES): | $(VENV)/installed
	$(BIN)/python setup.py --quiet build_ext --inplace

demo: setup
	$(BIN)/fsg train --method fsg --model resnet20 --dataset digits
	$(BIN)/fsg export --format tflite --format onnx
	$(BIN)/fsg bench

test: setup
	$(BIN)/pytest

# mypy and the package layout: the folder this file is in is the package fsg, whatever the checkout is called.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/mypy && ln -sfn ../.. build/mypy/fsg
	MYPYPATH=build/mypy $(BIN)/mypy -p fsg.training -p fsg.export -p fsg.runtime -m fsg.cli
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build dist *.egg-info $(LIBRARIES)
