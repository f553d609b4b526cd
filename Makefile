.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# cpu or gpu: which faiss; they exclude each other.
FAISS ?= cpu

.PHONY: help setup demo check format test test-all test-ray test-s3 test-browser test-gpu pictures bench table mutants clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),classical,weights,serve,report,hloc,dev]'
	@touch $@

setup: $(READY) ## Install everything into .venv

demo: $(READY) ## Generate scenes, index them on local Ray, update, query, evaluate; writes demo/index.html
	$(BIN)/python -m jobs.demo

check: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(READY) ## Quick tests: CPU, offline, without Ray
	$(BIN)/python -m pytest -n auto

test-all: $(READY) ## The same, enumerating every case: some minutes
	SIGHTLINE_THOROUGH=1 $(BIN)/python -m pytest -n auto

test-ray: $(READY) ## Tests on a local Ray; as root also on nodes in network namespaces
	$(BIN)/python -m pytest -m 'ray and not s3'

test-s3: $(READY) ## Tests against Ceph's S3 gateway (infra/ceph-s3.sh install)
	dir=$$(mktemp -d) && trap 'infra/ceph-s3.sh down "$$dir"; rm -rf "$$dir"' EXIT \
	&& url=$$(infra/ceph-s3.sh up "$$dir") && SIGHTLINE_TEST_S3=$$url $(BIN)/python -m pytest -m s3 -n 2

test-browser: $(READY) build/npm/node_modules/axe-core ## Tests in a real Chromium (Debian: chromium, npm)
	$(BIN)/python -m pytest -m browser

pictures: $(READY) ## Screenshots of the page for the documentation, into infra/pictures
	SIGHTLINE_PICTURES=infra/pictures $(BIN)/python -m pytest -m browser tests/serve

build/npm/node_modules/axe-core:
	npm install --silent --no-save --no-package-lock --prefix build/npm axe-core@4.14.1

test-gpu: $(READY) ## Tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: $(READY) ## Figures of the README into build/; those of photographs if SIGHTLINE_REAL_DATA names them
	$(BIN)/python -m tests.benchmarks

table: $(READY) ## mAP, cost and storage of every kind on the photographs that SIGHTLINE_REAL_DATA names: half an hour
	$(BIN)/python -m tests.benchmarks kinds localisation indexes

$(VENV)/.mutants: $(READY) constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	@touch $@

mutants: $(VENV)/.mutants ## Bugs on purpose that no test notices (docs/mutants.md): hours; MODULES=core/ranges for a few, ARGS='--sample 20'
	nice -n 19 $(BIN)/python -m tests.mutants $(MODULES) $(ARGS)

clean: ## Remove what was built here
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache *.egg-info
