# Everything happens in .venv, made and filled on first use from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test soak check lint bench demo lock clean

run: $(STAMP)
	@$(BIN)/pushbridge serve

test: $(STAMP)
	$(BIN)/pytest --numprocesses auto --dist loadfile

# The long form of the tests of crashes, faults, floods and abuse: fifteen minutes at the most.
soak: $(STAMP)
	timeout 900 $(BIN)/pytest --soak -m soak

check: lint test

# Format, lint, types, and who may import whom.
lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(STAMP)
	@$(BIN)/pushbridge demo

bench: $(STAMP)
	$(BIN)/python -m bench

$(STAMP): setup.cfg pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Pushbridge needs Python 3.11 or newer; set PYTHON=/path/to/one" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

# Renews requirements.lock within the bounds of setup.cfg.
lock:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip freeze --exclude-editable > requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info
