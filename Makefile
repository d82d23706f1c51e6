# What you can do here; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing into $(VENV) (once, about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --require-hashes -r requirements.lock
	@$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: migrate
migrate: $(READY) ## move the tables, prove them, print what happened
	@$(BIN)/pipeline migrate

.PHONY: dev
dev: $(READY) ## open the Dagster UI on http://127.0.0.1:3000
	@$(BIN)/pipeline dev

.PHONY: test
test: $(READY) ## run all tests
	@$(BIN)/python -m pytest

.PHONY: test-unit
test-unit: $(READY) ## run the tests that need no server and no process
	@$(BIN)/python -m pytest pipeline_tests/unit

.PHONY: test-engine
test-engine: $(READY) ## run the tests of the engine on SQLite and PostgreSQL
	@$(BIN)/python -m pytest pipeline_tests/engine

.PHONY: test-process
test-process: $(READY) ## run the tests of commands, servers, kills and the browser
	@$(BIN)/python -m pytest pipeline_tests/process

.PHONY: planted
planted: $(READY) ## plant known faults in a copy, one by one, and see that tests notice each
	@$(BIN)/python -m pipeline_tests.plant

.PHONY: check
check: $(READY) ## lint, type-check, hold the rule of imports, look for secrets and known vulnerabilities
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -n 0 pipeline_tests/unit/test_module_rules.py
	@$(BIN)/python .ci/no_secrets.py
	@$(BIN)/python .ci/audit.py

.PHONY: bench
bench: $(READY) ## measure against the limit and other tools; SCALE=10 for ten times the rows
	@$(BIN)/python -m bench.run
	@$(BIN)/python -m bench.far
	@$(BIN)/python -m bench.anki
	@$(BIN)/python -m bench.realtime

.PHONY: lock
lock: $(READY) ## pin the newest versions of all dependencies anew (needs uv)
	@uv pip compile pyproject.toml --upgrade --all-extras --universal --generate-hashes \
	  --no-strip-extras --no-annotate --no-header --quiet -o requirements.lock
