# Everything happens in .venv, made and filled on first use from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The tests start processes by the hundred: none is to compile the code anew.
unexport PYTHONDONTWRITEBYTECODE
AT_ONCE := --numprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: run test soak check lint bench demo lock clean

run: $(STAMP)
	@$(BIN)/pushbridge serve

# More run at once than a small machine has cores, since many wait for processes; tests/conftest.py says which begin.
test: $(STAMP)
	$(BIN)/pytest $(AT_ONCE)

# The long form of the tests of crashes, faults, floods and abuse: fifteen minutes at the most. Needs nginx, strace.
soak: $(STAMP)
	timeout 900 $(BIN)/pytest $(AT_ONCE) --soak -m soak

check: lint test

# Format, lint, types, who may import whom, and no secret in the repository: docs/decisions/secret-scan.md.
lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline

demo: $(STAMP)
	@$(BIN)/pushbridge demo

bench: $(STAMP)
	$(BIN)/python -m bench

$(STAMP): setup.cfg pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Pushbridge needs Python 3.11 or newer; set PYTHON=/path/to/one" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Brings requirements.lock in line with setup.cfg, and with the newest versions that it allows where NEWEST=--upgrade.
# Made with the oldest Python that is served: what newer ones need is part of that. Hashes are of all files of a version.
lock:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make lock needs Python 3.11; set PYTHON=/path/to/it" >&2; exit 1; }
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check 'pip-tools>=7.5,<8'
	build/lock/bin/pip-compile --quiet $(NEWEST) --generate-hashes --allow-unsafe --strip-extras --extra dev --no-header --no-annotate --no-emit-options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.lock setup.cfg

clean:
	rm -rf $(VENV) build *.egg-info
