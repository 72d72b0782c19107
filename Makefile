# `make demo` and `make test` do all the set-up themselves. `make help` lists the targets.
PYTHON ?= python3
# The minor version of TensorFlow; another than the default has an environment and a build folder of its own.
TENSORFLOW ?= 2.20
VENV := .venv$(patsubst %,-%,$(filter-out 2.20,$(TENSORFLOW)))
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# clang++, or the newest clang++-NN.
CLANG ?= $(shell command -v clang++ || ls /usr/bin/clang++-[0-9]* 2>/dev/null | sort -V | tail -n 1)
FUZZ_SECONDS ?= 60
comma := ,

CXX_SOURCES := $(wildcard custom_ops/*/*.cc custom_ops/*/*.h grappler_passes/*.cc grappler_passes/*.h)
NATIVE := CMakeLists.txt $(wildcard custom_ops/*/*.cmake) setup.py requirements.in MANIFEST.in $(CXX_SOURCES)

.PHONY: help setup demo docs image image-serving compose check test test-slow test-preload test-docs test-install test-image test-browser sanitize fuzz bench bench-search bench-filters bench-live bench-scorer bench-convert bench-index bench-graphs bench-cold bench-client bench-paper bench-serve fuzz-serve soak lint format clean
.DEFAULT_GOAL := help

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.built  ## Make .venv, install the pinned dependencies, compile the ops. TENSORFLOW=2.21 makes .venv-2.21.

# A lock of another TensorFlow names what differs.
OWN_LOCK := $(patsubst %,requirements-%.lock,$(filter-out 2.20,$(TENSORFLOW)))
requirements-%.lock:
	@echo "TENSORFLOW is $*, allowed are 2.20$(patsubst requirements-%.lock,$(comma) %,$(wildcard requirements-2.*.lock))" >&2; exit 1

$(VENV)/.installed: requirements.lock $(OWN_LOCK)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else "Python 3.10 to 3.13 is needed, %s is Python %d.%d; set PYTHON=..." % ("$(PYTHON)", *v))'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies (about 1 GB, a few minutes the first time)"
	@awk -F== '$$1 in seen {next} {if (FILENAME != "requirements.lock") seen[$$1]; print}' $(OWN_LOCK) requirements.lock >$(VENV)/requirements.lock
	$(BIN)/pip install --quiet -r $(VENV)/requirements.lock
	@touch $@

$(VENV)/.built: $(VENV)/.installed pyproject.toml $(NATIVE)
	@echo "compiling the ops"
	@$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.bench: requirements-bench.lock $(VENV)/.installed
	$(BIN)/pip install --quiet -r requirements-bench.lock
	@touch $@

demo: setup  ## Real purchases to an answered gRPC request; artefacts in demo/. TRAIN=1 trains the models.
	$(BIN)/nann demo --folder demo $(if $(TRAIN),--train)

image:  ## The local server's image (nann_local) by Docker; MODEL_DIR=... bakes in another model than the demo's.
	@MODEL_DIR=$(MODEL_DIR) docker/check.sh image
	docker build -f docker/Dockerfile.local -t nann_local $(if $(MODEL_DIR),--build-arg MODEL_DIR=$(MODEL_DIR)) .

image-serving:  ## TensorFlow Serving's stock image with the ops and a model (nann_serving), in minutes; MODEL_DIR=...
	@MODEL_DIR=$(MODEL_DIR) docker/check.sh serving
	docker build -f docker/Dockerfile -t nann_serving $(if $(MODEL_DIR),--build-arg MODEL_DIR=$(MODEL_DIR)) .

compose:  ## A server, Prometheus and a smoke test by Docker Compose; MODEL_DIR=...
	@MODEL_DIR=$(MODEL_DIR) docker/check.sh compose
	docker compose -f docker/compose.yaml up --build

# Python's own files do not count: tests/install/test_packaging.py holds their imports against what is required.
$(VENV)/.install-tested: pyproject.toml requirements.lock $(OWN_LOCK) $(NATIVE) tests/install/test_install.py tfserving_ext/ops/_library.py | setup
	$(BIN)/python -m pytest -m install tests/install
	@touch $@

test-install: $(VENV)/.install-tested  ## sdist, wheel and a served model in a clean environment, where what they are made of has changed.

# Tests that have a target of their own.
ELSEWHERE := not clean_root and not browser and not documented and not install and not alone

check: setup lint  ## Lint, types and the fast tests: a minute, for the loop of change and look.
	$(BIN)/python -m pytest -m "not slow and not medium and not shared and $(ELSEWHERE)" --numprocesses 2

test: setup $(VENV)/.bench lint  ## Lint, then all tests but the slow ones and those of the targets below, two files at a time.
	$(BIN)/python -m pytest -m "not slow and $(ELSEWHERE)" --numprocesses 2 --dist loadfile

test-slow: setup $(VENV)/.bench test-install  ## test-install, the tests that take more than some ten seconds each, and those that must run alone.
	$(BIN)/python -m pytest -m "slow and $(ELSEWHERE)" --numprocesses 2
	$(BIN)/python -m pytest -m alone

docs: setup  ## The documentation as a site, build/docs/index.html; every warning is an error. Needs Python 3.11.
	@test -x $(BIN)/sphinx-build || { echo "make docs needs Python 3.11 or newer, for Sphinx; set PYTHON=..." >&2; exit 1; }
	@$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "build/docs/index.html"

test-docs: setup  ## Every command that README and docs/ show, on the demo's artefacts: make demo first; ten minutes.
	@test -f demo/evaluation.json || { echo "test-docs needs the demo's artefacts: run make demo first" >&2; exit 1; }
	$(BIN)/python -m pytest tests/docs

test-preload: setup  ## The files for a stock TensorFlow Serving, in a program that stands for it; a part of `make test`.
	$(BIN)/python -m pytest tests/native/test_preload.py

test-image: setup  ## The Dockerfiles from an empty Debian to a server, without Docker; needs root.
	$(BIN)/python -m pytest tests/docker

test-browser: setup  ## The report of `nann bench` in a headless Chromium: `apt-get install chromium` first.
	$(BIN)/python -m pytest -m browser tests/loadtest

# Builds the target $(3) of the core with the sanitizers $(1) in $(2); $(4) is one more option for CMake.
build-core = { log=$$($(BIN)/cmake -S . -B $(2) -G Ninja -DNANN_SANITIZE=$(1) $(4) \
	-DPython3_EXECUTABLE=$(CURDIR)/$(BIN)/python -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja 2>&1 && \
	$(BIN)/cmake --build $(2) --target $(3) 2>&1) || { echo "$$log"; exit 1; }; }

sanitize: fuzz  ## The core's tests under the address, undefined-behaviour and thread sanitizers, after `fuzz`.
	@for kind in address,undefined thread; do \
	  echo "tests, $$kind" && $(call build-core,$$kind,build/sanitize/$$kind,core_tests) && \
	  $(BIN)/ctest --test-dir build/sanitize/$$kind --output-on-failure --no-tests=error || exit 1; \
	done

# Inputs that it finds worth keeping stay in build/ for the next run; so does one that fails.
FUZZ := build/sanitize/fuzz
fuzz: $(VENV)/.installed  ## Damaged indexes for the core, for FUZZ_SECONDS=60, under sanitizers; needs Clang.
	@test -n "$(CLANG)" || { echo "The fuzzer needs Clang with its sanitizers: 'apt-get install clang-16 libclang-rt-16-dev', or name a compiler by CLANG=clang++-NN." >&2; exit 1; }
	@echo "fuzzer, address,undefined, $(FUZZ_SECONDS) seconds"
	@$(call build-core,address$(comma)undefined$(comma)fuzzer-no-link,$(FUZZ),index_fuzz,-DCMAKE_CXX_COMPILER=$(CLANG))
	@mkdir -p $(FUZZ)/corpus
	@$(FUZZ)/index_fuzz -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1 \
	  -artifact_prefix=$(FUZZ)/ $(FUZZ)/corpus custom_ops/core/fuzz_corpus >$(FUZZ)/log 2>&1 || { cat $(FUZZ)/log; exit 1; }
	@grep number_of_executed_units $(FUZZ)/log

bench: setup $(VENV)/.bench  ## All that docs/performance.md shows, and that page: the demo first where it is not there; at most 40 minutes.
	@$(BIN)/python -m benchmarks.suite.run --folder demo $(if $(AGAIN),--again) $(PARTS:%=--only %)

bench-search: setup $(VENV)/.bench  ## The searches against their peers on the demo's model; QUICK=1 in a few minutes.
	@test -f demo/evaluation.json || { echo "bench-search needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.search.run --folder demo $(if $(QUICK),--quick)

bench-filters: setup  ## Searches under a filter against brute force and against filtering afterwards; QUICK=1 on the demo's corpus alone.
	@test -f demo/evaluation.json || { echo "bench-filters needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.search.filters --folder demo $(if $(QUICK),--quick)

bench-live: setup  ## Searches while items change: coverage, time until an update is answered, speed; QUICK=1 for less.
	@test -f demo/evaluation.json || { echo "bench-live needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.search.live --folder demo $(if $(QUICK),--quick)

bench-scorer: setup  ## Reference models, and the demo's search, before and after the passes over scorers; QUICK=1 for less.
	@$(BIN)/python -m benchmarks.scorer.run --folder demo $(if $(QUICK),--quick)

soak: setup  ## 64 clients on the demo's model at several thread settings, a minute each.
	@test -f demo/evaluation.json || { echo "soak needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.serving.soak --folder demo --seconds 60

bench-convert: setup  ## `nann convert` on 20 million made-up rows against Python a row at a time; QUICK=1 for 2 million.
	@$(BIN)/python -m benchmarks.data.convert $(if $(QUICK),--quick)

bench-index: setup  ## `nann index` against Faiss alone, on the demo's embeddings and made-up ones; QUICK=1 for less.
	@test -f demo/evaluation.json || { echo "bench-index needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.data.index_build --folder demo $(if $(QUICK),--quick)

bench-graphs: setup $(VENV)/.bench  ## HNSW's ground layer against nearest neighbours, on three corpora; QUICK=1 for smaller ones.
	@test -f demo/evaluation.json || { echo "bench-graphs needs the demo's artefacts: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.search.graphs --folder demo $(if $(QUICK),--quick)

bench-cold: setup  ## From the start of the local server to its first answer, with warm-up records and without; QUICK=1 for less.
	@test -f demo/evaluation.json || { echo "bench-cold needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.serving.cold_start --folder demo $(if $(QUICK),--quick)

bench-client: setup  ## How far the client of `nann bench` goes; QUICK=1 for less.
	@$(BIN)/python -m benchmarks.serving.load_client $(if $(QUICK),--quick)

bench-paper: setup  ## The paper's experiment on Complete Journey, two hours; goes on where it was; writes docs/paper_tables.md.
	@$(BIN)/python -m benchmarks.paper.run --jobs $(or $(JOBS),1)

bench-serve: setup  ## The local server against the model in process, and versions swapped under load; QUICK=1 for less.
	@test -f demo/evaluation.json || { echo "bench-serve needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.serving.run --folder demo $(if $(QUICK),--quick)

fuzz-serve: setup  ## Damaged requests for the local server, REQUESTS=100000 of them.
	@test -f demo/evaluation.json || { echo "fuzz-serve needs the demo's model: run make demo first" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.serving.fuzz --folder demo --requests $(or $(REQUESTS),100000)

lint: setup  ## ruff, clang-format and mypy, as pre-commit runs them.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES) $(wildcard tests/native/*.cc)
	$(BIN)/mypy

format: setup  ## Format Python and C++.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES) $(wildcard tests/native/*.cc)

clean:  ## Remove everything that was built, but not demo/.
	rm -rf .venv .venv-2.* build *.egg-info tfserving_ext/ops/_nann_ops*.so
