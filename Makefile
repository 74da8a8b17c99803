# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
# The first call of any of them makes the virtual environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test check slow gpu data recsim clean

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(READY)  ## make .venv and install streamrec into it

$(READY): pyproject.toml constraints.txt
	@echo "Making $(VENV) and installing streamrec with the versions of constraints.txt; this takes a minute or two, once."
	@$(PYTHON) -c 'import sys; sys.exit("streamrec needs Python 3.11 or later, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

demo: $(READY)  ## the main job: 90 seconds of users who click over Kafka while five policies learn
	@$(BIN)/streamrec demo

test: $(READY)  ## the tests, up to eight minutes on two cores
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

check: $(READY)  ## formatting, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

slow: $(READY)  ## the tests that take longer
	@$(BIN)/python -m pytest -m slow

gpu: $(READY)  ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

data: $(READY)  ## the tests on real data sets; STREAMREC_DATA names their folder
	@$(BIN)/python -m pytest -m data

recsim: $(READY)  ## RecSim without TensorFlow, for `streamrec bench agents --only recsim`
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps recsim==0.2.4 absl-py six

clean:  ## remove .venv and what runs left
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
