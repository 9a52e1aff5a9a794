# `make demo` shows the loop close; `make test` proves it. Everything else is listed by `make help`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCENARIO ?= older-population
PYTEST_ARGS ?=
WORKERS ?= 2
ONLY ?=

.DEFAULT_GOAL := help
.PHONY: help setup check format dashboards chart-files test test-integrations compose-test chart-test image-sizes bench demo up \
	down status clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Reinstalls only when a pin or a package's definition changed.
$(READY): requirements/dev.txt requirements/install $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
	@$(SHELL) requirements/check-host "$(PYTHON)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned requirements (a minute the first time)"
	@PYTHON=$(BIN)/python requirements/install
	@touch $@

setup: $(READY) ## make the virtual environment and check the local stack
	@$(BIN)/devstack check

check: $(READY) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dashboards: $(READY) ## write Grafana's dashboards anew from deploy/grafana
	$(BIN)/python -m deploy.grafana.dashboards

chart-files: $(READY) ## copy into the Helm chart what it brings along: rules, dashboards, topics, the shipped model
	$(BIN)/python -m deploy.helm.chart_files

# A worker that crashed ends the run: in its place xdist would wait for ever for what the dead one had been given.
test: setup ## unit, contract, integration and end-to-end, on a real Kafka and a real PostgreSQL
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --max-worker-restart 0 $(PYTEST_ARGS)

test-integrations: setup ## tests against optional tools; what is not installed is skipped with a reason
	$(BIN)/pytest -n 0 tests/integrations $(PYTEST_ARGS)

compose-test: setup ## build the images and bring docker-compose.yml up for real; starts an engine where none is (Debian 12, root)
	@tests/support/container-engine/run $(BIN)/pytest -n 0 tests/compose $(PYTEST_ARGS)

image-sizes: ## how large the images are that have been built here
	@docker image ls --filter 'reference=*driftloop/*' --format 'table {{.Repository}}\t{{.Tag}}\t{{.Size}}'

# The first time it builds the control plane, for a quarter of an hour; it says what it does.
chart-test: setup ## the Helm chart on a real Kubernetes control plane: install, upgrade, roll back, drain, uninstall
	@if command -v go >/dev/null; then tests/support/control-plane build; else echo "Go is not installed" >&2; fi
	$(BIN)/pytest -n 0 tests/chart $(PYTEST_ARGS)

bench: setup ## measure ours beside its peers in the same run; ONLY=name runs one benchmark
	@$(BIN)/python -m benchmarks.run $(ONLY)

demo: setup ## the whole loop on real parts; SCENARIO=pima-age-split runs real rows only
	$(BIN)/driftloop-demo run $(SCENARIO)

up: setup ## start the stack and every service, and print the URLs
	$(BIN)/driftloop-demo up

down: $(READY) ## stop what `make up` started
	$(BIN)/driftloop-demo down

status: $(READY) ## say what runs
	$(BIN)/driftloop-demo status

clean: ## remove what was built; caches outside the tree stay
	@[ ! -x $(BIN)/driftloop-demo ] || $(BIN)/driftloop-demo down || true
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
