# `make demo` and `make test` do all the set-up themselves. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NATIVE := CMakeLists.txt setup.py $(wildcard custom_ops/*/*.cc custom_ops/*/*.h)

.PHONY: help setup demo test sanitize bench-search lint format clean
.DEFAULT_GOAL := help

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.built  ## Make .venv, install the pinned dependencies, compile the ops.

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, %s is Python %d.%d; set PYTHON=..." % ("$(PYTHON)", *v))'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies (about 1 GB, a few minutes the first time)"
	$(BIN)/pip install --quiet -r requirements.lock
	@touch $@

$(VENV)/.built: $(VENV)/.installed pyproject.toml $(NATIVE)
	@echo "compiling the ops"
	@$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup  ## Real purchases to an answered gRPC request; artefacts in demo/.
	$(BIN)/nann demo --folder demo

test: setup lint  ## Lint, then all tests.
	$(BIN)/python -m pytest

sanitize: setup  ## The search core's test under the address, undefined-behaviour and thread sanitizers.
	@for kind in address,undefined thread; do \
	  echo "$$kind"; \
	  $(BIN)/cmake -S . -B build/sanitize/$$kind -G Ninja -DNANN_SANITIZE=$$kind \
	    -DPython3_EXECUTABLE=$(CURDIR)/$(BIN)/python -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja >/dev/null && \
	  $(BIN)/cmake --build build/sanitize/$$kind --target search_test >/dev/null && \
	  build/sanitize/$$kind/search_test || exit 1; \
	done

bench-search: setup  ## The searches against brute force on the demo's model; QUICK=1 for fewer cases.
	$(BIN)/python -m tfserving_ext.bench.search --folder demo $(if $(QUICK),--cases 100)

lint: setup  ## ruff, clang-format and mypy, as pre-commit runs them.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(wildcard custom_ops/*/*.cc custom_ops/*/*.h)
	$(BIN)/mypy

format: setup  ## Format Python and C++.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard custom_ops/*/*.cc custom_ops/*/*.h)

clean:  ## Remove everything that was built, but not demo/.
	rm -rf $(VENV) build *.egg-info tfserving_ext/ops/_nann_ops.so tfserving_ext/ops/build_info.json
