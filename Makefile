# Each target works from a fresh clone.
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTHON ?= python3

.PHONY: setup quickstart up down test torture lint bench clean

# The stamp is written last: an installation that was stopped is done again. It says where that was, for an environment
# cannot be moved: its scripts hold its path.
INSTALLED_IN := $(shell cat $(VENV)/.installed 2>/dev/null)
ifneq ($(INSTALLED_IN),)
ifneq ($(INSTALLED_IN),$(CURDIR))
CLEAR := --clear
.PHONY: $(VENV)/.installed
endif
endif

$(VENV)/.installed: pyproject.toml constraints.txt tasks/atomic_dvc.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Trackway needs Python 3.11 or newer, not " + sys.version.split()[0])'
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	@echo "installing PyTorch, Prefect, MLflow and DVC into $(VENV): some 6 GB, a few minutes"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m tasks.atomic_dvc
	@echo "$(CURDIR)" >$@

setup: $(VENV)/.installed

quickstart: setup
	@trackway run

# Prefect's page, MLflow's page and the schedules, until `make down`.
up: setup
	@trackway up

down: setup
	@trackway down

test: setup
	@python -m pytest --numprocesses=2 --dist=loadfile

# Kills, full disks, lost servers, several at once: what survives. One to two hours on two cores.
torture: setup
	@python -m tests.torture

lint: setup
	@ruff check .
	@ruff format --check .
	@mypy

bench: setup
	@python -m bench

# Everything that can be made again, but not DVC's cache.
clean:
	rm -rf data models metrics plots mlruns .prefect
