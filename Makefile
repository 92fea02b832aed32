# Two commands do all the set-up: `make juxtapose` (the main job) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Tests use one thread a process.
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadgroup

LAUNCHERS := .venv-launchers

.PHONY: juxtapose test test-all test-launchers lint perf docs clean

# The stamp is remade when the dependencies change, so a second `make` installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing juxtabit and what it needs (torch is large: this takes a few minutes once) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable ".[test,perf,lint]"
	@touch $@

juxtapose: $(VENV)/.installed
	$(BIN)/juxtabit run +suite=quick

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(WORKERS)

# Launchers of Hydra's, in an environment of their own: Ray's needs cloudpickle below 3, which joblib 1.6
# does not take, and a client of a cloud's that needs a dateutil below 3.
APART := -e '^cloudpickle==' -e '^joblib==' -e '^python-dateutil=='
$(LAUNCHERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LAUNCHERS)
	grep -v $(APART) constraints.txt > $(LAUNCHERS)/constraints.txt
	$(LAUNCHERS)/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint $(LAUNCHERS)/constraints.txt --editable ".[test,launchers,ray]"
	@touch $@

test-launchers: $(LAUNCHERS)/.installed
	$(LAUNCHERS)/bin/python -m pytest tests/end_to_end/test_launchers.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages of the Python interface; a warning is an error.
docs: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.docs.api --out build/docs

perf: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.studies.performance

clean:
	rm -rf $(VENV) build/docs results/quick results/runs
