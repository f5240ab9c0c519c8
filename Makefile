# make demo | test | test-long | lint | docs | bench | clean          (needs Python >= 3.11 and make, nothing else)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BIN := .venv/bin

# A passive wait keeps two threads from burning their time slices on a shared machine.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-long lint docs bench clean

demo: .venv/installed
	$(BIN)/tercet demo

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long"

test-long: .venv/installed-test
	$(BIN)/python -m pytest -m long --timeout 3600
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -n 2 --dist worksteal -m "not long" --timeout 3600

lint: .venv/installed-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-test
	$(BIN)/python docs/build.py

bench: .venv/installed-bench
	$(BIN)/python benchmarks/losses.py

# torch goes in first and pinned, so that no other package can pull a build with gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tercet needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' || { echo "this Python has no venv module (on Debian: apt-get install python3-venv)"; exit 1; }
	"$(PYTHON)" -m venv .venv
	@echo "installing torch, then tercet, into .venv: a few minutes the first time"
	$(PIP) torch
	$(PIP) --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable '.[test]'
	touch $@

.venv/installed-lint: .venv/installed
	$(PIP) --editable '.[lint,test]'
	touch $@

.venv/installed-bench: .venv/installed
	$(PIP) --editable '.[bench]'
	touch $@

clean:
	rm -rf .venv demo-run*
