# `make` lists the targets. Each one creates the environment it needs, the first time.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
EXTRAS := dev,datasets,embed,faiss,gguf,haystack,langchain,llama-index,lm-eval,mcp,memory,plot,qdrant,serve,tune,train,docs,bench
BIN := $(VENV)/bin

# The demo needs torch, transformers, peft and scipy: a full environment serves it where there is one, else a smaller one.
DEMO_VENV := $(if $(wildcard $(READY)),$(VENV),.venv-demo)

# mkdocs-material prints an advertisement on every build unless told not to.
export NO_MKDOCS_2_WARNING := 1
# Threads of torch that wait shall not spin for long: beside another busy process that is many times as slow.
export GOMP_SPINCOUNT ?= 10000
# Compiled tests are kept: without that, each process of each run compiles three hundred files again.
export PYTHONDONTWRITEBYTECODE :=

define require_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
  { echo "siftlm needs Python 3.10 or newer, and '$(PYTHON)' is not. Try: make PYTHON=python3.12 ..." >&2; exit 1; }; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
  { echo "'$(PYTHON)' cannot create environments: install its venv package (Debian: python3-venv)." >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help demo test quick study-smoke check bench docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO_VENV)/.ready  ## selection, and a model that learns facts for a question; offline
	@$(DEMO_VENV)/bin/siftlm demo

# Tests run side by side, a file in one process. pytest comes last, so that its closing line closes the whole run.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile

test: check docs  ## everything: check, docs, then all tests, doctests and documentation examples
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# A room's tests, or all of them: no doctests and no documents, fewer examples of each property.
QUICKLY := -q -m "not slow" -o addopts="--import-mode=importlib --strict-config --strict-markers -ra -p no:schemathesis -p no:langsmith_plugin"

quick: $(READY)  ## the fast tests only; `make quick ROOM=memory` for those of one room
	SIFTLM_TESTS=quick $(BIN)/python -m pytest $(QUICKLY) $(SIDE_BY_SIDE) tests/$(ROOM)

study-smoke: $(READY)  ## the study's whole pipeline on a few texts, with a kill in the middle
	$(BIN)/python -m pytest -q tests/evaluation/test_study_smoke.py

check: $(READY)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## compare selection with its public peers; writes JSON
	$(BIN)/python benchmarks/selection.py

docs: $(READY)  ## build the documentation into site/; a warning is an error
	$(BIN)/mkdocs build --strict

clean:  ## remove caches and built files (environments stay; `rm -r .venv*` removes those)
	rm -rf build dist site .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): pyproject.toml constraints.txt
	@$(call require_python)
	@echo "Creating the development environment in $(VENV), some minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

.venv-demo/.ready: pyproject.toml constraints.txt
	@$(call require_python)
	@echo "Creating an environment with torch, transformers, scipy and siftlm ..."
	@$(PYTHON) -m venv .venv-demo
	@.venv-demo/bin/python -m pip install -qq -c constraints.txt -e '.[lexical,tune]'
	@touch $@
