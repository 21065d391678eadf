# The commands of this repository. `make` alone lists them.

PYTHON ?= python3
ARGS ?=

VENV := .venv
INSTALLED := $(VENV)/.installed
INCOMPLETE := $(VENV)/.incomplete

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help demo test test-all test-slurm test-slurm-all lint clean lock
.DEFAULT_GOAL := help

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' Makefile
	@echo 'Options: ARGS="..." goes to snakemake or pytest; PYTHON=python3.12 chooses the interpreter.'

demo: $(INSTALLED) ## run the demonstration: data, training, evaluation and report, some minutes
	@python workflow/unlock.py
	@PYTHONPATH=workflow/console snakemake --cores all --logger esm1b $(ARGS)

test: lint ## run the linters and the quick tests
	@pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# tests of real proteins run where ESM1B_REAL_DATA names their directory
test-all: lint ## run every test that needs no GPU, slow ones too
	@pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not gpu and not slurm" $(ARGS)

# one after the other: each cluster trains with four processes. As root, with SLURM installed, or skipped
test-slurm: $(INSTALLED) ## run the workflow on a SLURM cluster in namespaces, some ten minutes
	@pytest -m "slurm and not slow" -rs $(ARGS)

test-slurm-all: $(INSTALLED) ## the same with all events, lost nodes and the full demonstration, an hour
	@pytest -m slurm -rs $(ARGS)

lint: $(INSTALLED) ## check style, types and the workflow
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	snakefmt --check workflow
	snakemake --lint

clean: ## remove .venv, caches and build leftovers; results/ and checkpoints/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find config esm1b tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +

# Needs uv (`pip install uv`; part of .venv). Pins that still fit stay; ARGS=--upgrade renews them all.
lock: ## write envs/requirements.txt anew from pyproject.toml
	@command -v uv >/dev/null || { echo 'make lock needs uv: pip install uv' >&2; exit 1; }
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra cluster \
		--output-file envs/requirements.txt pyproject.toml $(ARGS) >/dev/null

# The lock constrains the installation instead of being installed line by line, so the build of
# torch decides what comes with it: the one on PyPI brings the CUDA libraries at the locked versions;
# a CPU build (2.13.0+cpu satisfies ==2.13.0) needs none, and pip takes it wherever it finds one:
#     make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# An installation in progress carries the file .incomplete, which becomes the stamp when it is done.
# One that was interrupted is thrown away: pip takes a half-written package for an installed one.
$(INSTALLED): pyproject.toml envs/requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; choose another with PYTHON=python3.12")'
	@if test -e $(INCOMPLETE) || ! test -x $(VENV)/bin/python; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(INCOMPLETE)
	@echo 'Installing the locked environment into $(VENV); this takes some minutes.'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check \
		--constraint envs/requirements.txt --editable '.[dev,cluster]'
	@mv $(INCOMPLETE) $@
