# `make leaderboard` and `make test` each work as a single command on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER_STAMP := $(VENV)/.browser
COMPRESS := $(BIN)/robustprune compress --fresh --keep-parents
METHODS := hydra compact-robust atmc bap adversarial-gradual gradual pwoa snip radmm

.PHONY: setup leaderboard test test-browser fuzz check lint bench retrain-digits clean help

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(STAMP)  ## build .venv with everything that is needed

$(STAMP): pyproject.toml constraints.txt requirements-nodeps.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robustprune needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-nodeps.txt
	touch $(STAMP)

leaderboard: setup  ## evaluate the embedded checkpoints and render reports/site/index.html
	$(BIN)/robustprune run --protocol digits-linf --tier standard

test: setup  ## the tests: of real data where ROBUSTPRUNE_DATA names them
	$(BIN)/python -m pytest -n auto --dist worksteal

$(BROWSER_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[browser]'
	touch $(BROWSER_STAMP)

test-browser: $(BROWSER_STAMP)  ## the pages in Chromium: scripts, requests, widths, themes, accessibility
	browser=$$($(BIN)/python tests/browser/chromium.py) && ROBUSTPRUNE_BROWSER="$$browser" $(BIN)/python -m pytest -n auto tests/browser

fuzz: setup  ## 100,000 mutated files and more, to every reader of foreign files
	PYTHONPATH=tests $(BIN)/python -m fuzz

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what a change must pass, beside test-browser

bench: setup  ## speed, as ratios within one run; writes docs/speed.md and docs/speed.json
	mkdir -p .benchmarks
	$(BIN)/python -m pytest tests/bench --benchmark-enable --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-json=.benchmarks/bench.json
	$(BIN)/python tests/bench/pages.py .benchmarks/bench.json

retrain-digits: setup  ## make the embedded checkpoints again, bit for bit on the same machine
	rm -rf .cache/pretrained .cache/training
	$(COMPRESS) dense random lwm-layerwise lwm-global --sparsity 0,0.5,0.75,0.9,0.95,0.99
	$(COMPRESS) dense --objective benign --sparsity 0
	$(COMPRESS) $(METHODS) --sparsity 0.9,0.95,0.99
	$(COMPRESS) atmc:bits=8 --sparsity 0.9
	$(COMPRESS) lwm-layerwise compact-robust radmm pwoa --structure filter --sparsity 0.5
	$(COMPRESS) dense lwm-layerwise hydra --objective smoothing --sparsity 0,0.9
	$(COMPRESS) dense lwm-layerwise hydra --recipe digits-certified --objective mixtrain --sparsity 0,0.9
	$(COMPRESS) dense lwm-layerwise hydra --recipe digits-certified --objective crown-ibp --sparsity 0,0.9

clean:  ## drop caches (downloads and half-finished trainings, too) and rendered pages; records, checkpoints and .venv stay
	rm -rf .cache reports/site .mypy_cache .ruff_cache .benchmarks .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
