# make demo, make check, make test, make proof: each makes its own .venv when there is none.
# VENV=path takes an environment that exists, as it is.

PYTHON ?= python3
ifdef VENV
READY :=
else
VENV := .venv
READY := .venv/.ready
endif
RUN := $(VENV)/bin/python
export PATH := $(abspath $(VENV)/bin):$(PATH)
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: demo check lint types test proof clean

# Trains the three models on two cores from nothing, generates, and prints what came out.
demo: $(READY)
	$(RUN) -m dalle demo

check: lint types
	$(RUN) -m pytest -q -m "not slow and not distributed and not proof"

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(READY)
	$(RUN) -m mypy

# All that CI asserts, on two cores. pytest's closing line is the last.
test: lint types
	$(RUN) -m pytest -q -n 2 --dist loadgroup

# What takes hours: the tests, every way of resuming under every strategy, and a whole demo.
proof: test
	$(RUN) -m pytest -q -m proof
	$(RUN) -m dalle demo

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[dev,deepspeed,track]"
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
