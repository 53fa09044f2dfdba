# Verbs: run test style types imports coverage system soak conformance fuzz bench install uninstall clean

PYTHON ?= /usr/bin/python3
# More words for pytest: make test ARGS="-k timer"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --quiet --disable-pip-version-check --use-pep517

.PHONY: run test style types imports coverage system soak conformance fuzz bench install uninstall clean

# On a terminal the daemon gets a process group of its own (bash -m): Ctrl+C is its alone to answer, and make ends with
# its exit code instead of dying of the signal.
RUN := $(BIN)/workermand run -c config/workers.toml
run: $(VENV)/.runs
	@if [ -t 0 ]; then bash -mc '$(RUN); exit $$?'; else exec $(RUN); fi

# ------------------------------------------------------------------------------------------------ the environment

# --use-pep517: the pip of Debian 12 would build sdnotify in a way that it itself warns about.
$(VENV)/.runs: pyproject.toml
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.tests: pyproject.toml
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.runs

# ------------------------------------------------------------------------------------------------ checks

test: style types imports
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup $(ARGS)

style: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tests
	$(BIN)/mypy

imports: $(VENV)/.tests
	$(BIN)/lint-imports

# 100 % where every branch is a promise: what parses, what decides.
EXACT := workermand/protocols/*,workermand/http/*,workermand/master/plan.py,workermand/master/child.py
EXACT := $(EXACT),workermand/address.py,workermand/config.py,workermand/places.py
EXACT := $(EXACT),workermand/schema.py,workermand/tables.py,workermand/values.py

coverage: $(VENV)/.tests
	@rm -rf .coverage && mkdir .coverage
	$(BIN)/coverage run -m pytest --numprocesses auto --dist loadgroup $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=100 --include='$(EXACT)'

system: $(VENV)/.tests
	$(BIN)/python -m pytest tests/system $(ARGS)

soak: $(VENV)/.tests
	$(BIN)/python -m pytest -m soak --soak --timeout 3600 $(ARGS)

# Autobahn's suite, all of it, of the server and of the client: 20 minutes. make conformance ARGS="9.* 12.1.*"
conformance: $(VENV)/.tests
	@set -f; $(BIN)/python -m tests.conformance $(ARGS)

# Each harness for 10 minutes, two at a time. make fuzz ARGS="http --seconds 60"
fuzz: $(VENV)/.tests
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.tests
	@$(MAKE) --quiet --directory tests/bench
	@$(BIN)/python -m tests.bench $(ARGS)

# ------------------------------------------------------------------------------------------------ as a service (root)

# DESTDIR: the files go below it, and nothing of the running system is touched.
install:
	@PYTHON='$(PYTHON)' DESTDIR='$(DESTDIR)' sh systemd/install.sh install

uninstall:
	@DESTDIR='$(DESTDIR)' sh systemd/install.sh uninstall

clean:
	rm -rf $(VENV) .coverage .*_cache .hypothesis .fuzz build dist
	@$(MAKE) --quiet --directory tests/bench clean
