# Each target works from a fresh clone.
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTHON ?= python3

.PHONY: setup quickstart up down test lint bench clean

# The stamp is written last: an installation that was stopped is done again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Trackway needs Python 3.11 or newer, not " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch, Prefect, MLflow and DVC into $(VENV): some 6 GB, a few minutes"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/.installed

quickstart: setup
	@trackway run

# Prefect's page, MLflow's page and the schedules, until `make down`.
up: setup
	@trackway up

down: setup
	@trackway down

test: setup
	@python -m pytest

lint: setup
	@ruff check .
	@ruff format --check .
	@mypy

bench: setup
	@python -m bench

# Everything that can be made again, but not DVC's cache.
clean:
	rm -rf data models metrics plots mlruns .prefect
