# Two commands on a fresh machine: `make demo` and `make test`. Each makes its virtual environment by itself.
#
# A CUDA build of torch: make install TORCH_INDEX=URL, with the wheel index that PyTorch's "Get started" page names for
# your CUDA version. By default the CPU build is taken where pip's index has one.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
TORCH_VERSION := 2.13.0
# Two test processes on two cores: threads inside each would only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --doctest-modules src tests

.PHONY: install install-dev demo test test-all lint format bench clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) torch==$(TORCH_VERSION)
else
	$(BIN)/python -m pip install --quiet torch==$(TORCH_VERSION)+cpu 2>/dev/null || $(BIN)/python -m pip install --quiet torch==$(TORCH_VERSION)
endif
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e .[dev]
	touch $@

demo: install
	$(BIN)/viml demo

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install-dev
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf $(VENV) viml-demo
