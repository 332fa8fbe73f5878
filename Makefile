# Everything a fresh clone needs: `make test` and `make train` create .venv, install what constraints.txt names,
# build the native code and run. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BUILD ?= build/inplace
PYTEST_ARGS ?=
# Of pytest; 0: in its own process, which -s and --pdb need.
PROCESSES ?= auto
BENCH_ARGS ?=
TRAIN_ARGS ?=
FINGERPRINT_ARGS ?=
DOCS_ARGS ?=
GPU_PROOF_OUT ?= gpu-proof-out
# Such as --minutes 5.
GPU_PROOF_ARGS ?=
# AUTO compiles CUDA kernels where nvcc is found. One's own GPU alone: make build DGSEG_CUDA_ARCHITECTURES=90
export DGSEG_CUDA ?= AUTO
export DGSEG_CUDA_ARCHITECTURES ?= 80;90;100
# Training builds no native unit tests.
export DGSEG_TESTS = ON

# Training installs what it needs; tests, benchmarks and linters add the rest.
TRAIN_EXTRAS := train
EXTRAS := data,models,evaluation,export,train,dev

BIN := $(VENV)/bin
# cmake, ninja, ctest and clang-format come from the environment, as does the Python that CMake asks for torch.
export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
TRAINING := $(VENV)/.installed-$(TRAIN_EXTRAS)
INSTALLED := $(VENV)/.installed-$(EXTRAS)
DOCS_INSTALLED := $(VENV)/.installed-docs
# Modules are compiled when they are first imported: compiling all of them takes minutes, and few are used.
PIP = $(BIN)/python -m pip install -q --no-compile -c constraints.txt
NATIVE_SOURCES = $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h')

.DEFAULT_GOAL := help
.PHONY: help test test-slow train build native fingerprint lint format docs bench gpu-proof clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("dgseg needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.12")'
	@command -v $(CXX) >/dev/null || { echo "dgseg needs a C++20 compiler; '$(CXX)' was not found. Install g++ or set CXX."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }  # a half-made one would be taken for whole next time

# The stamp is written last: an interrupted installation starts over. The build tools go in first, because
# --no-build-isolation builds against the very torch that the tests will load.
$(TRAINING): pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(PIP) --upgrade pip
	$(PIP) setuptools cmake ninja pybind11 torch numpy
	$(PIP) --no-build-isolation -e '.[$(TRAIN_EXTRAS)]'
	@touch $@

$(INSTALLED): $(TRAINING)
	$(PIP) --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $@

# The site's reference is read from the sources: nothing of dgseg is imported.
$(DOCS_INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(PIP) -r $@.txt
	@mv $@.txt $@

build: $(INSTALLED) native  ## build the native code into dgseg/_lib

# Configuring again takes a second, and notices another torch, another nvcc or other flags; ninja does the rest.
native: $(TRAINING)
	@cmake -S . -B $(BUILD) -G Ninja '-DPython3_EXECUTABLE=$(CURDIR)/$(BIN)/python' -DDGSEG_TESTS=$(DGSEG_TESTS) \
	  -DDGSEG_CUDA=$(DGSEG_CUDA) '-DDGSEG_CUDA_ARCHITECTURES=$(DGSEG_CUDA_ARCHITECTURES)' --log-level=WARNING
	@cmake --build $(BUILD)

test: build  ## install, build and run the whole suite (minutes)
	ctest --test-dir $(BUILD) --output-on-failure --no-tests=ignore
	$(BIN)/python -m pytest -n $(PROCESSES) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

test-slow: build  ## the long tests: Ray jobs and faults, compiled models, wheels in empty environments
	$(BIN)/python -m pytest -m slow -v -s $(PYTEST_ARGS)

train: DGSEG_TESTS = OFF
train: native  ## install, build and train FLEX-Seg on the streets world: two workers on a Ray of their own
	$(BIN)/python ray_jobs/train_flexseg.py --workers 2 $(TRAIN_ARGS)

fingerprint: build  ## hashes of tiny runs of every system: equal before and after a change of structure (3 minutes)
	@$(BIN)/python scripts/fingerprint.py $(FINGERPRINT_ARGS)

lint: $(INSTALLED)  ## what pre-commit and CI run: ruff, mypy, clang-format, import-linter
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run --Werror $(NATIVE_SOURCES)
	lint-imports

format: $(INSTALLED)  ## rewrite the sources as lint wants them
	ruff check --fix .
	ruff format .
	clang-format -i $(NATIVE_SOURCES)

docs: $(DOCS_INSTALLED)  ## the documentation's site, into site/; broken links are errors. DOCS_ARGS=serve shows it while you write
	$(BIN)/python scripts/build_docs.py $(DOCS_ARGS)

bench: build  ## time the operators against what one would use instead; BENCH_ARGS='--op boundary_bands'
	$(BIN)/dgseg bench ops $(BENCH_ARGS)

gpu-proof:  ## on a GPU machine: build, benchmark, tests, compute-sanitizer; needs no .venv and no network
	PYTHON='$(PYTHON)' '$(PYTHON)' scripts/gpu-proof $(GPU_PROOF_OUT) $(GPU_PROOF_ARGS)

clean:  ## remove what was built; .venv stays
	rm -rf build dist site *.egg-info dgseg/_lib dgseg/_host*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
