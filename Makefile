# Everything a contributor runs. Each target sets up what it needs when that is missing
# or older than what it is made from: .venv, the dashboard's packages, the built page.
# Without Node.js, what needs it is skipped with a notice; with CI or SERVICES=required
# that is a failure. `make` alone lists the targets.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SETUP := .venv/.set-up
LOAD := .venv-load/.set-up
RAY := .venv-ray/.set-up
SOURCES := service tests benchmarks scripts clients
PACKAGES := dashboard/node_modules/.set-up
PAGE := service/web/static/dashboard/index.html
# Folders too: they change when a file is removed.
PAGE_SOURCES := $(shell find dashboard/* -name node_modules -prune -o -print)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
NPM := npm --prefix dashboard
WITH_NODE := scripts/with-node
AGAIN := $(MAKE) --silent
UNLESS_PASSED := $(BIN)/python scripts/unless_passed.py

export PYTHON
# Bytecode is written also where the environment forbids it: each of the processes that
# tests start would compile the whole service again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help .venv run dashboard test coverage test-page check check-code check-page
.PHONY: check-page-types check-image check-locks format format-page bench soak load lock
.PHONY: client image ray
.PHONY: clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

# --- set-up ---------------------------------------------------------------------------

# One make of a checkout sets up at a time. Under the lock, make looks again at what is
# out of date, since the one that it has waited for may have made it.
alone = $(if $(SET_UP_LOCKED),$(1),python=$$(scripts/find-python) && \
	"$$python" scripts/with_lock.py $(AGAIN) SET_UP_LOCKED=yes $@)

.venv: $(SETUP) ## set the virtual environment up

$(SETUP): pyproject.toml requirements-dev.lock scripts/setup-venv scripts/check_environment.py
	@$(call alone,scripts/setup-venv)

$(PACKAGES) $(PAGE): export NODE_REQUIRED := yes

$(PACKAGES): dashboard/package-lock.json dashboard/.npmrc
	@$(call alone,$(WITH_NODE) 'the dashboard is not built' scripts/install-page-packages)

$(PAGE): $(PACKAGES) $(PAGE_SOURCES)
	@$(call alone,$(WITH_NODE) 'the dashboard is not built' scripts/build-page)

dashboard: $(PAGE) ## build the page that is served at /dashboard/
	@:

$(LOAD): requirements-load.lock $(SETUP)
	@$(call alone,scripts/setup-load)

$(RAY): requirements-ray.lock $(SETUP)
	@$(call alone,scripts/setup-ray)

# --- everyday -------------------------------------------------------------------------

run: $(SETUP) ## serve on 127.0.0.1:8000 against the embedded sandbox
	@$(WITH_NODE) 'the dashboard is not built' scripts/page-if-possible $(AGAIN) dashboard
	@$(BIN)/copilot-usage serve --sandbox $(ARGS)

# Four files at once, since most tests wait for a server or a browser; in their own order,
# since those that take longest come first. CI runs a failed test once more, since a busy
# machine can miss a time limit; both results are listed.
ALL_TESTS = --numprocesses 4 --dist loadfile --no-loadscope-reorder $(REPEATED)
REPEATED = $(if $(CI),--reruns 1 --rerun-show-tracebacks -raR)

# A selection of tests starts at once: the page is built only for a browser's.
PAGE_TESTED = $(if $(ARGS),$(if $(findstring tests/browser,$(ARGS)),dashboard),test-page)

test coverage check: export NODE_REQUIRED := $(or $(CI),$(filter required,$(SERVICES)))

# Without Ray, its tests are skipped.
RAY_TESTED = $(if $(filter required,$(SERVICES)),$(RAY))

test: $(SETUP) $(RAY_TESTED) ## run the tests; ARGS="-k rating" only some
	@$(if $(PAGE_TESTED),$(WITH_NODE) 'the dashboard is not tested' $(AGAIN) $(PAGE_TESTED))
	@$(BIN)/python -m pytest $(or $(ARGS),$(ALL_TESTS))

# Measuring takes half as long again as the tests do.
coverage: $(SETUP) $(RAY_TESTED) ## run all tests, and see that they cover 95 %
	@$(WITH_NODE) 'the dashboard is not tested' $(AGAIN) test-page
	@$(BIN)/python -m pytest --cov $(ALL_TESTS)

test-page: dashboard
	@$(NPM) test --silent

check: $(SETUP) check-code ## format, lint, types, import directions, locks, the image
	@$(WITH_NODE) 'the dashboard is not checked' $(AGAIN) check-page
	@$(AGAIN) check-locks check-image

check-code: $(SETUP)
	@$(BIN)/ruff format --check $(wildcard $(SOURCES))
	@$(BIN)/ruff check $(wildcard $(SOURCES))
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

check-page: $(PACKAGES) check-page-types
	@$(UNLESS_PASSED) dashboard dashboard -- $(NPM) run --silent check

check-page-types: $(PACKAGES)
	@$(BIN)/python scripts/write_api_types.py --check

# Each lock is installed with two versions of pip, which takes minutes.
check-locks: $(SETUP)
	@$(UNLESS_PASSED) locks pyproject.toml $(wildcard requirements*.lock) \
		scripts/check_locks.py scripts/check_environment.py \
		-- $(BIN)/python scripts/check_locks.py

check-image: $(SETUP)
	@$(call alone,$(UNLESS_PASSED) image $(IMAGE_INPUTS) "node=$$(node --version 2>&1)" \
		-- $(BIN)/python -m scripts.check_dockerfile)

IMAGE_INPUTS := Dockerfile .dockerignore pyproject.toml README.md LICENSE requirements.lock \
	requirements-build.lock config dashboard service scripts

format: $(SETUP) ## rewrite the code as `make check` wants it
	@$(BIN)/ruff check --fix-only --quiet $(wildcard $(SOURCES))
	@$(BIN)/ruff format $(wildcard $(SOURCES))
	@$(WITH_NODE) 'the dashboard is not formatted' $(AGAIN) format-page

format-page: $(PACKAGES)
	@$(BIN)/python scripts/write_api_types.py
	@$(NPM) run --silent format

bench: $(SETUP) ## measure, printed as ratios
	@$(BIN)/python -m benchmarks $(if $(AGAINST),--against $(AGAINST)) $(ARGS)

soak: $(SETUP) ## the long tests: load, drains, kills and outages (docs/develop.md)
	@SERVICES=required SOAK_S=$(or $(SOAK_S),1200) SOAK_DRAINS=$(or $(SOAK_DRAINS),100) \
		SOAK_OUTAGE_S=$(or $(SOAK_OUTAGE_S),30) SOAK_KILLS=$(or $(SOAK_KILLS),1000) \
		SOAK_RESTARTS=$(or $(SOAK_RESTARTS),60) \
		SOAK_QUEUE_ROUNDS=$(or $(SOAK_QUEUE_ROUNDS),200) $(BIN)/python -m pytest --numprocesses 0 \
		--capture no -o faulthandler_timeout=0 tests/conformance/soak_raw_requests.py \
		tests/server/soak_equal_answers.py tests/faults/soak_period_kills.py \
		tests/isolation/soak_drains.py tests/isolation/soak_outages.py \
		tests/machines/soak_rolling_restarts.py \
		tests/isolation/soak_redis_failover.py \
		tests/usage/periods/soak_kept_periods.py \
		tests/usage/bulk/soak_bulk_pricing.py \
		tests/alerts/soak_alerts.py \
		tests/events/queue/soak_queue_kills.py $(ARGS)

load: $(LOAD) ## load on a server of this machine: ARGS="steady --serve", "--help"
	@.venv-load/bin/python -m benchmarks.load $(or $(ARGS),mixed --serve)

ray: $(RAY) ## set up .venv-ray: the service with Ray, for the tests of bulk pricing
	@:

client: $(SETUP) ## build the Python client of applications in clients/python/dist
	@cd clients/python && ../../$(BIN)/python -m hatchling build --clean

image: ## build the image, tagged with the version and as latest; needs Docker
	@docker build --build-arg VERSION=$(VERSION) \
		--tag copilot-usage:$(VERSION) --tag copilot-usage:latest .

MADE := clients/python/dist dashboard/node_modules service/web/static .venv .venv-load .venv-ray .coverage .coverage.* \
	.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

clean: ## remove all that these targets made
	@$(call alone,rm -rf $(MADE) && find . -name __pycache__ -type d -prune -exec rm -rf {} + \
		&& rm -rf .cache)

# --- dependencies ---------------------------------------------------------------------

# Exact versions and hashes of all that is installed, the same on every platform.
# The widest set is resolved first; others are cut from it. The load tools never share an
# environment with the service, so they are resolved by themselves. The locks
# are installed without resolving, so what extras require must be in them too. The image
# has the extra nats: a deployment with a queue must not need an image of its own.
COMPILE = UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet \
	--universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-strip-extras --no-annotate --no-emit-index-url pyproject.toml

# Only uv must be there: with a new dependency, the environment does not fit the locks yet.
$(BIN)/uv:
	@$(call alone,scripts/setup-venv)

lock: $(BIN)/uv ## resolve the dependencies anew; ARGS=--upgrade for newer versions
	@$(COMPILE) --group dev --output-file requirements-dev.lock $(ARGS)
	@$(COMPILE) --extra nats --constraint requirements-dev.lock --output-file requirements.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group build \
		--constraint requirements-dev.lock --output-file requirements-build.lock
	@$(subst pyproject.toml,,$(COMPILE)) --group load \
		--output-file requirements-load.lock $(ARGS)
	@$(COMPILE) --group ray --constraint requirements-dev.lock \
		--output-file requirements-ray.lock $(ARGS)
