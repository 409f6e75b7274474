# Two commands on a fresh machine with Python 3.11, pip and make: `make demo` and `make test`.

VENV ?= .venv
RUN ?= runs/demo
# The first interpreter that works and is new enough; choose another with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## Make the environment in .venv, if it is missing or out of date

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found: install one, or name it with PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Train on the embedded digits, evaluate, and write a report (runs/demo)
	$(BIN)/daps train digits --run $(RUN)
	$(BIN)/daps eval $(RUN)
	$(BIN)/daps report $(RUN)
	@echo "The report is $(RUN)/report.html: open it in a browser."

test: $(STAMP)  ## Run the tests (choose some with ARGS="-k objective")
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: $(STAMP)  ## Run the tests that take long
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m slow $(ARGS)

check: $(STAMP)  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment, caches and build output (runs are kept)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
