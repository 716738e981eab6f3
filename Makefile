# Everything here works on a fresh Debian or Ubuntu with python3 (3.11 or newer), git and make.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.NOTPARALLEL:
.PHONY: help run test test-fast test-long test-engines lint audit bench drill
.SILENT:

help: ## This list
	sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

# exec: the stack is make's own child, and ends with it, however that ends.
run: ## Run the whole stack in the foreground (ARGS="--ephemeral" keeps no data)
	$(PYTHON) stack/bootstrap.py && exec $(BIN)/tapedeck up --parent $$PPID $(ARGS)

test: ## Everything that takes less than 15 minutes
	$(PYTHON) stack/bootstrap.py --test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(ARGS),$(BIN)/pytest -m 'not long' $(ARGS),$(BIN)/pytest -m 'not long' -n 2 --dist loadfile --ignore tests/chaos)
	$(if $(ARGS),,$(BIN)/pytest -m 'not long' -n 2 --dist loadgroup tests/chaos)

test-fast: ## What needs no server: lint, types, unit tests
	$(PYTHON) stack/bootstrap.py --test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit -m 'not long' $(ARGS)

test-long: ## What takes longer: the full model, long runs
	$(PYTHON) stack/bootstrap.py --test
	$(BIN)/pytest -m long --timeout 7200 $(ARGS)

test-engines: ## What differs between servers, on MySQL 8.4 and 9, MariaDB 11, Redis 8 and Valkey 9 too; a table at the end
	$(PYTHON) stack/bootstrap.py --test
	$(BIN)/python -m tests.engine_table $(ARGS)

lint: ## ruff and mypy
	$(PYTHON) stack/bootstrap.py --test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: ## Known holes in the pinned packages (asks the package index; what it could not look at fails too)
	$(PYTHON) stack/bootstrap.py
	test -x .tapedeck/audit/bin/pip-audit || { $(PYTHON) -m venv .tapedeck/audit && .tapedeck/audit/bin/pip install --quiet 'pip-audit>=2.10,<3'; }
	.tapedeck/audit/bin/pip-audit --strict -r constraints.txt --no-deps --disable-pip --progress-spinner off

bench: ## The benchmarks, under an hour (ARGS=--quick: under 5 minutes; ARGS=--help)
	$(PYTHON) stack/bootstrap.py --bench && exec $(BIN)/python -m bench $(ARGS)

drill: ## Every chaos drill, at length (ARGS="lookup-killed" for one)
	$(PYTHON) stack/bootstrap.py --test && $(BIN)/tapedeck drill $(or $(ARGS),--all)
