PYTHON ?= $(shell command -v python3.11 || echo python3)
GPU_PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find runtime/native training/scan/native -name '*.c' -o -name '*.cc' -o -name '*.h' -o -name '*.S')
CPP := $(filter-out %.S,$(NATIVE)) $(shell find tests export runtime/boards -name '*.c' -o -name '*.cc' -o -name '*.h')

.PHONY: setup demo test test-all oracle interpreters fuzz wheels gpu-check docs lint format clean

setup: $(VENV)/built

$(VENV)/installed: constraints.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt setuptools ziglang
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

# The installation builds the libraries; this is for edits of their sources.
$(VENV)/built: $(NATIVE) $(VENV)/installed
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

demo: setup
	$(BIN)/fsg train --method fsg --model resnet20 --dataset digits
	$(BIN)/fsg export --format tflite --format onnx
	$(BIN)/fsg bench

# Two workers, each with whole files, whose tests share what is made once. In their order: files of few long tests are
# not the last.
PYTEST = $(BIN)/pytest -n $(or $(WORKERS),2) --dist loadfile --no-loadscope-reorder

# The everyday suite.
test: setup
	$(PYTEST) -m "not slow"

# All of it: what trains, converts or compiles whole networks too, and what compares with what is below, if it is here.
test-all: setup
	$(PYTEST)

# LCE's own interpreter, which the tests compare with if it is here: 1.5 GB.
oracle: build/oracle/installed

build/oracle/installed: tests/oracle/requirements.txt
	$(PYTHON) -m venv build/oracle
	build/oracle/bin/pip install --quiet -r $<
	build/oracle/bin/pip install --quiet --no-deps tf_keras==2.16.0
	touch $@

# The interpreters that the native library is tested in, if they are here: 2 GB.
interpreters:
	$(PYTHON) tests/support/interpreters.py

# A million inputs for the whole delegate, ten for the reader of options; needs clang-19 and libclang-rt-19-dev.
fuzz: setup
	$(BIN)/python tests/support/fuzz.py fuzz_options 10000000
	$(BIN)/python tests/support/fuzz.py fuzz_delegate 1000000

wheels: | $(VENV)/installed
	for machine in x86_64 aarch64; do FSG_TARGET=$$machine $(BIN)/python setup.py --quiet \
	  build --build-base build/wheel-$$machine bdist_wheel --dist-dir dist || exit 1; done
	cp build/wheel-aarch64/lib*/fsg/runtime/targets/android-aarch64/libfsg_delegate.so \
	  dist/libfsg_delegate-android-arm64.so

# The folder this file is in is the package fsg, whatever the checkout is called: for what does without the installation.
build/mypy/fsg:
	mkdir -p build/mypy && ln -sfn ../.. $@

# What a machine with an NVIDIA GPU makes of fsg, in six minutes, with its own Python and PyTorch for CUDA: no setup.
gpu-check: | build/mypy/fsg
	PYTHONPATH=$(CURDIR)/build/mypy $(GPU_PYTHON) tests/benchmarks/gpu_check.py --out $(or $(OUT),build/gpu-check) $(GPU_OPTIONS)

# The documentation as a site, in build/site. Its reference is read from fsg's rooms alone, without build/ and .venv/.
ROOMS := commands export runtime training $(filter-out setup.py,$(wildcard *.py))

docs: setup
	mkdir -p build/rooms/fsg && cd build/rooms/fsg && ln -sfn $(addprefix ../../../,$(ROOMS)) .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: setup docs | build/mypy/fsg
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/mypy $(BIN)/mypy -p fsg.training -p fsg.export -p fsg.runtime -p fsg.commands -m fsg.cli -m fsg.face
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf build dist *.egg-info runtime/targets runtime/*.so training/scan/*.so $(VENV)/built
