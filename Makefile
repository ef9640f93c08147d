# Two commands matter: `make demo` and `make test`. Both make their own environment.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: env demo test test-slow lint bench clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: env
	$(BIN)/drsn-edge demo --out demo --force

test: env
	$(BIN)/python -m pytest -m 'not slow and not gpu' -n auto

test-slow: env
	$(BIN)/python -m pytest -m 'slow and not gpu'

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: env
	$(BIN)/python -m benchmarks

clean:
	rm -rf build dist *.egg-info demo
