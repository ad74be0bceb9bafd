PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP := $(wildcard runtime/native/*.cc runtime/native/*.h)

.PHONY: setup native demo test lint format clean

setup: $(VENV)/installed
$(VENV)/installed: constraints.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt setuptools ziglang
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

# After an edit of runtime/native: rebuild the library in place.
native: setup
	$(BIN)/python setup.py --quiet build_ext --inplace

demo: setup
	rm -rf runs/demo
	$(BIN)/fsg train --method fsg --model resnet20 --dataset digits --out runs/demo
	$(BIN)/fsg export runs/demo --format tflite --format onnx
	$(BIN)/fsg bench runs/demo/export/model.tflite runs/demo/export/model.onnx

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
	rm -rf build dist *.egg-info runtime/*.so
