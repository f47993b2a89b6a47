# Each target sets up what it needs; `make book` and `make test` work in a fresh clone.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
# This checkout's library and no other, also for kernels that start in a chapter's folder; one thread per process.
export PYTHONPATH := $(CURDIR)
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export PYTHONDONTWRITEBYTECODE ?= 1
# Never the reader's own settings of these programs.
unexport MPLBACKEND MATPLOTLIBRC PYTHONHOME PYTHONSTARTUP
# Where matplotlib keeps its list of fonts: no home has to be writable, and nobody's own settings lie there.
export MPLCONFIGDIR := $(CURDIR)/.venv/matplotlib

.DEFAULT_GOAL := help
# What the book shows; NCLIB_DATA must name a folder with the data (see book/running.md).
SEEDS ?= 0 1 2
.PHONY: help book pdf test notebooks experiments lab serve bench lock lint clean browser-check text from-text

help:  ## this list
	@echo "Perturbation Analysis of Neural Collapse"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "The book needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not there)." \
	       "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python comes without venv; install it first (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@echo "Setting up .venv (once, some minutes) ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(BIN)/python -c 'import matplotlib.font_manager' 2>/dev/null  # builds its font list now, not inside a notebook
	@touch $@

book: .venv/installed  ## render the book to _build/html (warnings are errors)
	@rm -rf _build
	@$(BIN)/jupyter-book build -W -n --keep-going --all .
	@echo "The book is ready. Open $(CURDIR)/_build/html/index.html"

pdf: .venv/installed  ## the rendered book as one PDF, linked from its first page (needs Chromium)
	@test -d _build/html || $(MAKE) --no-print-directory book
	@$(BIN)/python tools/pdf.py

test: .venv/installed  ## library tests and examples, and every notebook run anew and compared with what it stores
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval --nbval-current-env

notebooks: .venv/installed  ## execute all notebooks in place
	@$(BIN)/python tools/notebooks.py run --jobs $(JOBS)
	@$(BIN)/python tools/overview.py

experiments: .venv/installed  ## measure the real networks again: complete runs are left alone (SEEDS="0 1 2")
	@$(BIN)/python -m nclib.networks run layerwise --scale full --device cpu --seed $(SEEDS)
	@$(BIN)/python -m nclib.networks run end-to-end --scale reduced --device cpu --seed $(SEEDS)
	@$(BIN)/python -m nclib.networks run weight-decay --scale reduced --device cpu --seed $(SEEDS)

lab: .venv/installed  ## JupyterLab in this environment
	@$(BIN)/jupyter trust book/*.ipynb book/*/*.ipynb > /dev/null || true  # shows the stored figures before a run
	@$(BIN)/jupyter lab --notebook-dir=book

serve: book  ## render the book and serve it on this computer
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(or $(PORT),8000)

browser-check: .venv/installed  ## open every page of the rendered book in headless Chromium
	@test -d _build/html || $(MAKE) --no-print-directory book
	@$(BIN)/python tools/browser_check.py

bench: .venv/installed  ## CPU times against what people use, for the book's page of benchmarks
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m benchmarks

text: .venv/installed  ## write each notebook as text to .text/, for editing
	@$(BIN)/python tools/notebooks.py to-text

from-text: .venv/installed  ## bring the edits in .text/ back into the notebooks
	@$(BIN)/python tools/notebooks.py from-text

lint: .venv/installed  ## format, style, docstrings, types; notebooks in normal form
	@status=0; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/python tools/notebooks.py check || status=1; \
	exit $$status

lock:  ## compile requirements.txt anew from pyproject.toml (LOCKFLAGS=--upgrade for newer versions)
	@$(PYTHON) -m venv --clear _build/lock
	@_build/lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools
	@cp requirements.txt _build/requirements.txt  # pins that are still right stay
	@_build/lock/bin/pip-compile --quiet --all-extras --strip-extras --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host $(LOCKFLAGS) --output-file _build/requirements.txt pyproject.toml
	@{ echo "# The complete environment, compiled from the ranges in pyproject.toml by \`make lock\`."; \
	   grep -E '^[a-zA-Z0-9]' _build/requirements.txt | sed 's/+cpu$$//'; } > requirements.txt

clean:  ## remove the rendered book, the environment and all caches
	@rm -rf .venv _build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
