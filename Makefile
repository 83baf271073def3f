# Everything that is typed often. `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(wildcard csrc/*)
OUTPUT ?= runs/demo

.PHONY: help install demo test soak check bench clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed  ## a virtual environment with rmeeto, its kernels and the tools of its tests

$(VENV)/installed: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install  ## merge, re-train and measure the embedded Vision Mamba; results in runs/demo
	$(BIN)/rmeeto demo --output $(OUTPUT) $(DEMO_FLAGS)

SHAPED := rmeeto.tokens,rmeeto.reduction,rmeeto.models.embed,rmeeto.models.intermediates,rmeeto.models.mixer,rmeeto.models.stack,rmeeto.models.vim,rmeeto.models.timm_vit

test: install  ## all tests, and the golden ones again with shapes and types checked at run time
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal
	$(BIN)/python -m pytest -q tests/golden --jaxtyping-packages=$(SHAPED),beartype.beartype

soak: install  ## kill, stop, fill, cut: long trials that training loses nothing (root for two hosts and full disks)
	$(BIN)/python soak/run.py $(SOAK_FLAGS)

check: install  ## style, types and the storeys of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

BENCHMARKS := startup limits ops scan models merging long step low

bench: $(VENV)/peers  ## measured speed of all there is beside its peers, 40 minutes with AVX-512, longer without; docs/performance.md from it
	set -e; for each in $(BENCHMARKS); do $(BIN)/python benchmarks/$$each.py $(BENCH_FLAGS); done
	$(BIN)/python benchmarks/page.py

$(VENV)/peers: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	touch $@

clean:  ## remove what was built here
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
