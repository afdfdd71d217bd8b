# Every target makes the environment it needs, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h') CMakeLists.txt

.PHONY: help demo test quick check bench sanitize clean
help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ —/'

$(VENV)/.core: pyproject.toml constraints.txt $(NATIVE)
	@echo "Preparing the environment in $(VENV) (once; a few minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.core ## quantize the embedded model, train an adapter on it, compare both
	$(BIN)/quatro demo --output-dir runs/demo --overwrite

test: $(VENV)/.dev ## all tests
	$(BIN)/python -m pytest

quick: $(VENV)/.dev ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not fixtures"

check: $(VENV)/.dev ## lint, types, floors, sanitizers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory sanitize

sanitize: $(VENV)/.dev ## the kernels' own tests under AddressSanitizer and UBSan
	$(BIN)/cmake -S . -B build/sanitize -DQUATRO_SANITIZE=ON -DCMAKE_BUILD_TYPE=Release > /dev/null
	$(BIN)/cmake --build build/sanitize > /dev/null
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure

bench: $(VENV)/.dev ## measure against bitsandbytes and dense torch, after checking that results are right (some minutes)
	$(BIN)/python benchmarks/quantize.py
	$(BIN)/python benchmarks/products.py --figure docs/products.png
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/planner.py

clean: ## remove what the other targets made
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
