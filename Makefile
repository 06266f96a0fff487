# Everything a contributor runs. Each target sets .venv up when it is missing or
# older than what it is made from; `make` alone lists the targets.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SETUP := .venv/.set-up
LOAD := .venv-load/.set-up
SOURCES := service tests benchmarks scripts

.DEFAULT_GOAL := help
.PHONY: help .venv run test check format bench load lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

.venv: $(SETUP) ## set the virtual environment up

$(SETUP): pyproject.toml requirements-dev.lock scripts/setup-venv
	@PYTHON='$(PYTHON)' scripts/setup-venv
	@touch $@

run: $(SETUP) ## serve on 127.0.0.1:8000 against the embedded sandbox
	@$(BIN)/copilot-usage serve --sandbox $(ARGS)

test: $(SETUP) ## run the tests; all of them must cover 95 %, ARGS="-k rating" only some
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),--cov)

check: $(SETUP) ## format, lint, types, import directions, the image's install
	@$(BIN)/ruff format --check $(wildcard $(SOURCES))
	@$(BIN)/ruff check $(wildcard $(SOURCES))
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python scripts/check_dockerfile.py

format: $(SETUP) ## rewrite the code as `make check` wants it
	@$(BIN)/ruff check --fix-only --quiet $(wildcard $(SOURCES))
	@$(BIN)/ruff format $(wildcard $(SOURCES))

bench: $(SETUP) ## measure, printed as ratios
	@$(BIN)/python -m benchmarks $(ARGS)

$(LOAD): requirements-load.lock $(SETUP)
	@$(BIN)/python -m venv --clear .venv-load
	@.venv-load/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements-load.lock
	@touch $@

load: $(LOAD) ## load on a server of this machine: ARGS="steady --serve", "--help"
	@.venv-load/bin/python -m benchmarks.load $(or $(ARGS),mixed --serve)

clean: ## remove all that these targets made
	rm -rf .venv .venv-load .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Exact versions and hashes of all that is installed, the same on every platform.
# The widest set is resolved first; two others are cut from it. The load tools never
# share an environment with the service, so they are resolved by themselves.
COMPILE = UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet \
	--universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-annotate --no-emit-index-url pyproject.toml

lock: $(SETUP) ## resolve the dependencies anew; ARGS=--upgrade for newer versions
	@$(BIN)/python -m pip install --quiet uv
	@$(COMPILE) --group dev --output-file requirements-dev.lock $(ARGS)
	@$(COMPILE) --constraint requirements-dev.lock --output-file requirements.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group build \
		--constraint requirements-dev.lock --output-file requirements-build.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group load \
		--output-file requirements-load.lock $(ARGS)
