# Two commands for users: `make serve` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
MODEL ?= smollm2-135m
ARGS ?=
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install serve chat check test format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with everything needed to serve

$(STAMP): pyproject.toml
	@PYTHON=$(PYTHON) bash tools/install.sh $(VENV)
	@touch $(STAMP)

$(DEV_STAMP): $(STAMP)
	@PYTHON=$(PYTHON) EXTRAS=torch,dev bash tools/install.sh $(VENV)
	@touch $(DEV_STAMP)

serve: $(STAMP)  ## serve the demo model: make serve PORT=8123 ARGS="--workers 1"
	@exec $(BIN)/jedlik serve $(MODEL) --port $(PORT) $(ARGS)

chat: $(STAMP)  ## talk to a server started by `make serve`
	@exec $(BIN)/jedlik chat --port $(PORT)

check: $(DEV_STAMP)  ## format, lint, types, import contracts, size limits (under a minute)
	@$(BIN)/ruff format --check src tests bench tools
	@$(BIN)/ruff check src tests bench tools
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/house.py
	@$(BIN)/python tools/map.py --check

test: $(DEV_STAMP)  ## all tests (under 20 minutes on 2 cores)
	@$(BIN)/python -c 'import nixl_cu12' 2>/dev/null || \
	    echo "NIXL is not installed, so its tests are skipped. To run them too: $(BIN)/pip install --no-deps nixl-cu12"
	@$(BIN)/pytest $(PYTEST_ARGS)

format: $(DEV_STAMP)  ## rewrite to the house format
	@$(BIN)/ruff format src tests bench tools
	@$(BIN)/ruff check --fix src tests bench tools

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
