# Everything a contributor runs. Each target sets up what it needs when that is missing
# or older than what it is made from: .venv, the dashboard's packages, the built page.
# What needs Node.js is left out, with a word on it, where there is none; with CI or
# SERVICES=required that is a failure. `make` alone lists the targets.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SETUP := .venv/.set-up
LOAD := .venv-load/.set-up
SOURCES := service tests benchmarks scripts
PACKAGES := dashboard/node_modules/.set-up
PAGE := service/web/static/dashboard/index.html
# Folders too: they change when a file goes.
PAGE_SOURCES := $(shell find dashboard/* -name node_modules -prune -o -print)
NPM := npm --prefix dashboard
WITH_NODE := scripts/with-node
AGAIN := $(MAKE) --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help .venv run dashboard test test-page check check-page format format-page
.PHONY: bench load lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

.venv: $(SETUP) ## set the virtual environment up

$(SETUP): pyproject.toml requirements-dev.lock scripts/setup-venv
	@PYTHON='$(PYTHON)' scripts/setup-venv
	@touch $@

$(PACKAGES) $(PAGE): export NODE_REQUIRED := yes

$(PACKAGES): dashboard/package-lock.json dashboard/.npmrc
	@$(WITH_NODE) 'the dashboard is not built' scripts/quietly $(NPM) ci
	@touch $@

$(PAGE): $(PACKAGES) $(PAGE_SOURCES)
	@echo 'Building the dashboard …'
	@$(WITH_NODE) 'the dashboard is not built' scripts/quietly $(NPM) run build

dashboard: $(PAGE) ## build the page that is served at /dashboard/
	@:

run: $(SETUP) ## serve on 127.0.0.1:8000 against the embedded sandbox
	@$(WITH_NODE) 'the dashboard is not built' $(AGAIN) dashboard
	@$(BIN)/copilot-usage serve --sandbox $(ARGS)

# Two files at once; in their own order, since those that take longest come first.
ALL_TESTS = --cov --numprocesses 2 --dist loadfile --no-loadscope-reorder

test check: export NODE_REQUIRED := $(or $(CI),$(filter required,$(SERVICES)))

test: $(SETUP) ## run the tests; all of them must cover 95 %, ARGS="-k rating" only some
	@$(WITH_NODE) 'the dashboard is not tested' $(AGAIN) $(if $(ARGS),dashboard,test-page)
	@$(BIN)/python -m pytest $(or $(ARGS),$(ALL_TESTS))

test-page: dashboard
	@$(NPM) test --silent

check: $(SETUP) ## format, lint, types, import directions, the image's install
	@$(WITH_NODE) 'the dashboard is not checked' $(AGAIN) check-page
	@$(BIN)/ruff format --check $(wildcard $(SOURCES))
	@$(BIN)/ruff check $(wildcard $(SOURCES))
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python scripts/check_dockerfile.py

check-page: $(PACKAGES)
	@$(BIN)/python scripts/write_api_types.py --check
	@$(NPM) run --silent check

format: $(SETUP) ## rewrite the code as `make check` wants it
	@$(BIN)/ruff check --fix-only --quiet $(wildcard $(SOURCES))
	@$(BIN)/ruff format $(wildcard $(SOURCES))
	@$(WITH_NODE) 'the dashboard is not formatted' $(AGAIN) format-page

format-page: $(PACKAGES)
	@$(BIN)/python scripts/write_api_types.py
	@$(NPM) run --silent format

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
	rm -rf dashboard/node_modules service/web/static
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
