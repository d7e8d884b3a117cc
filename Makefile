# Each target works from a fresh clone; `make help` lists them.
VENV := .venv
BIN := $(VENV)/bin
# With its default shell, the make of macOS starts a plain command itself and looks for it in the caller's PATH.
SHELL := bash
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt

.PHONY: help setup quickstart up down test test-cluster test-fast torture lint format docs bench clean

# The stamp is written last: an installation that was stopped is done again. It says where that was, for an environment
# cannot be moved: its scripts hold its path.
INSTALLED_IN := $(shell cat $(VENV)/.installed 2>/dev/null)
ifneq ($(INSTALLED_IN),)
ifneq ($(INSTALLED_IN),$(CURDIR))
CLEAR := --clear
.PHONY: $(VENV)/.installed
endif
endif

$(VENV)/.installed: pyproject.toml constraints.txt tests/support/gradio.txt tasks/atomic_dvc.py flows/servers/database.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Trackway needs Python 3.11 or newer, not " + sys.version.split()[0])'
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	@echo "installing PyTorch, Prefect, MLflow and DVC into $(VENV): some 8 GB, several minutes"
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/gradio --requirement tests/support/gradio.txt
	$(BIN)/python -m tasks.atomic_dvc
	$(BIN)/python -m flows.servers.database
	@echo "$(CURDIR)" >$@

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: $(VENV)/.installed  ## .venv with everything

quickstart: setup  ## run everything in params.yaml
	@trackway run

up: setup  ## Prefect's page, MLflow's page and the schedules, until `make down`
	@trackway up

down: setup  ## end what `make up` started
	@trackway down

test: setup  ## all tests, three files at a time: many wait for a server or a time
	@python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder -m "not cluster"

test-cluster: setup  ## a team's servers, and a Ray cluster of three nodes; ten minutes
	@python -m pytest -m cluster

test-fast: setup  ## the tests without processes and servers, under a minute
	@python -m pytest tests/unit

torture: setup  ## kills, full disks, lost servers and nodes, several at once: what survives; two hours or more on two cores
	@python -m tests.torture

lint: setup  ## ruff, mypy and hadolint
	@ruff check .
	@ruff format --check .
	@mypy
	@hadolint tasks/export/Dockerfile deploy/Dockerfile

format: setup  ## ruff rewrites what it can
	@ruff check --fix .
	@ruff format .

docs: setup  ## generate docs/parameters.md and params.schema.json from the schema of params.yaml
	@python -m tasks.params.describe

bench: setup  ## compare side by side, and print tables
	@python -m bench

clean:  ## remove everything that can be made again, but not DVC's cache
	rm -rf data models metrics plots mlruns .prefect
