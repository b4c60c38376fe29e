# make demo | make test | make help
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
# TORCH='torch==2.12.0' chooses the torch to install; empty: requirements/
TORCH ?=
MIN_MIOU ?= 80
# Each test worker uses one core.
WORKERS ?= 2
PYTEST_ARGS ?=

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV := $(ROOT)/.venv/bin
BOOTSTRAP := cd '$(ROOT)' && '$(PYTHON)' scripts/bootstrap.py
TORCH_OPTION := --torch '$(TORCH)'
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
DEMO_CONFIG := configs/demo/deeplabv3plus_r18-rfa-d16_1xb8-300_sample-96x96.py
DEMO := work_dirs/demo
export PYTHONUNBUFFERED := 1
# Threads that wait must not spin: on a shared machine that costs 10 times.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help base ops demo test test-fast test-classification test-oldest \
  lint docs links clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' '$(ROOT)/Makefile' \
	  | expand -t 28

base: ## install segmentation into .venv (no compiler needed)
	@$(BOOTSTRAP) base $(TORCH_OPTION)

ops: ## base, detection and mmcv's compiled operators
	@$(BOOTSTRAP) base ops $(TORCH_OPTION)

# The run is made aside: one that fails leaves the last good one in place.
demo: base ## train, test and show a small network on generated data
	@cd '$(ROOT)'; rm -rf $(DEMO).new; \
	export MMRFA_DATA_ROOT='$(ROOT)/data/sample'; PATH='$(VENV)':"$$PATH"; \
	set -x; \
	python tools/dataset_converters/make_sample.py data/sample; \
	python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO).new; \
	python tools/test.py $(DEMO_CONFIG) $(DEMO).new/iter_300.pth \
	  --work-dir $(DEMO).new/test --out $(DEMO).new/predictions.pkl; \
	python tools/analysis_tools/plot_curves.py $(DEMO).new; \
	python tools/analysis_tools/show_predictions.py $(DEMO_CONFIG) \
	  $(DEMO).new/predictions.pkl $(DEMO).new/pictures; \
	rm -rf $(DEMO).old; \
	if [ -e $(DEMO) ]; then mv $(DEMO) $(DEMO).old; fi; \
	mv $(DEMO).new $(DEMO); rm -rf $(DEMO).old; \
	{ set +x; } 2>/dev/null; \
	python scripts/demo_result.py $(DEMO) --min-miou $(MIN_MIOU)

test: ## install what tests need, then run all of them
	@$(BOOTSTRAP) base ops test $(TORCH_OPTION)
	@cd '$(ROOT)'; '$(VENV)/python' $(PYTEST) $(PYTEST_ARGS)

test-fast: ## those that take a moment each: under 2 minutes
	@$(BOOTSTRAP) base ops test $(TORCH_OPTION)
	@cd '$(ROOT)'; '$(VENV)/python' $(PYTEST) -m 'not slow' $(PYTEST_ARGS)

# What pip would keep of CUDA's libraries takes half as much again.
test-classification test-oldest: export PIP_NO_CACHE_DIR := 1

# tests/conftest.py is for both; what it skips here, `make test` runs.
test-classification: ## mmpretrain in .venv-cls, on another torch
	@$(BOOTSTRAP) base classification --venv .venv-cls \
	  --torch '-r requirements/torchvision.txt'
	@cd '$(ROOT)'; '$(ROOT)/.venv-cls/bin/python' $(PYTEST) \
	  tests/test_classification tests/test_ops tests/test_layers \
	  tests/test_conversion \
	  --ignore tests/test_ops/test_triton.py \
	  $(PYTEST_ARGS)

# What tests/test_checkpoints leaves out there comes in through MMEngine.
test-oldest: ## what needs torch alone, on the oldest torch, in .venv-oldest
	@$(BOOTSTRAP) --venv .venv-oldest --torch '-r requirements/oldest.txt'
	@cd '$(ROOT)'; '$(ROOT)/.venv-oldest/bin/python' $(PYTEST) \
	  tests/test_ops tests/test_layers tests/test_conversion \
	  tests/test_checkpoints --ignore tests/test_checkpoints/test_doors.py \
	  $(PYTEST_ARGS)

lint: ## ruff, codespell, and that imports go down only
	@$(BOOTSTRAP) lint
	@cd '$(ROOT)'; '$(VENV)/ruff' check; '$(VENV)/ruff' format --check; \
	'$(VENV)/codespell'; '$(VENV)/lint-imports' --no-cache

docs: ## make the site, build/site/index.html; warnings are errors
	@$(BOOTSTRAP) base docs $(TORCH_OPTION)
	@cd '$(ROOT)'; '$(VENV)/python' -m sphinx -q -E -W --keep-going -c docs . build/site; \
	echo 'made build/site/index.html'

# The gallery need not run for that.
links: ## follow the links of the site to other sites (needs a network)
	@$(BOOTSTRAP) base docs $(TORCH_OPTION)
	@cd '$(ROOT)'; '$(VENV)/python' -m sphinx -q -b linkcheck -D plot_gallery=0 -c docs . build/links

clean: ## remove environments and caches; data and work_dirs stay
	@cd '$(ROOT)'; rm -rf .venv .venv-cls .venv-oldest .pytest_cache .ruff_cache build dist docs/examples mmrfa/.mim; \
	find . -name __pycache__ -prune -exec rm -rf {} +
