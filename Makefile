# make demo   the whole road on a small data set, ending in one table (no network after the install, no GPU)
# make test   the test suite
# make test-fast   what of it needs neither a whole run nor a browser, in about a minute
# make check  format, lint and types, as pre-commit runs them
# make wheel  dist/omni_rlvr-*.whl

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast check wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/omni-rlvr +experiment=quickstart

test: $(VENV)/installed $(VENV)/sweep/installed
	$(BIN)/python -m pytest

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -m 'not slow'

check: $(VENV)/installed
	$(BIN)/ruff format --check src tests experiments
	$(BIN)/ruff check src tests experiments
	$(BIN)/mypy

wheel: $(VENV)/installed
	$(BIN)/python -m build --wheel

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("omni-rlvr needs Python 3.11 or newer; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The extra sweep, in a folder of its own: Hydra imports all its plugins at every start, and Optuna's takes 0.7 s.
# What these need besides is there already: alembic and SQLAlchemy come with MLflow.
$(VENV)/sweep/installed: $(VENV)/installed
	rm -rf $(VENV)/sweep
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt --target $(VENV)/sweep \
	  hydra-joblib-launcher hydra-optuna-sweeper joblib optuna cmaes colorlog
	touch $@

clean:
	rm -rf $(VENV) dist outputs data
