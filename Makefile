# Everything a contributor or a machine runs. `make help` lists it.
#
# PYTHON       interpreter that makes the environment (3.11 or newer)
# VENV         the environment; one that exists is kept and brought up to date
# WORKERS      parallel test processes
# TORCH_INDEX  an index with torch's CPU-only wheel, where PyPI's, which brings the CUDA libraries, is not wanted

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TORCH_INDEX ?=

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check
stamp := $(VENV)/.tersor-installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint check test-all bench docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(stamp)  ## make or update the environment; the other targets do this first

$(stamp): pyproject.toml constraints.txt
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(pip) install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(stamp)  ## compile MiniLM in three variants and print what came of it
	$(bin)/python examples/demo.py

test: $(stamp)  ## the fast tests
	$(bin)/python -m pytest -q -n $(WORKERS) -m "not slow"

lint: $(stamp)  ## style, format, types
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

check: lint test  ## what a change has to pass

test-all: $(stamp)  ## every test, the slow ones too
	$(bin)/python -m pytest -q -n $(WORKERS)

bench: $(stamp)  ## every benchmark, one after the other
	set -e; for program in benchmarks/[!_]*.py; do echo "== $$program"; $(bin)/python $$program; done

docs: $(stamp)  ## make the pages that are made from the code
	mkdir -p build
	$(bin)/python -m tersor.ir.fx.page > build/ops.md && mv build/ops.md docs/ops.md

clean:  ## caches and build leftovers; the environment stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
