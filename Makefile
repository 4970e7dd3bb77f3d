# make demo   the whole road on a small data set, ending in one table (no network after the install, no GPU)
# make test   the test suite
# make test-fast   what of it needs no whole run, process, browser or picture, in 70 seconds on two idle cores
# make check  format, lint and types, as pre-commit runs them
# make docs   the documentation site, in site/; any warning is an error
# make docs-test   every command that README and docs show, with small settings
# make wheel  dist/omni_rlvr-*.whl

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast check docs docs-test wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/omni-rlvr +experiment=quickstart

test: $(VENV)/installed $(VENV)/sweep/installed $(VENV)/qlora/installed
	$(BIN)/python -m pytest

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -m 'not slow'

check: $(VENV)/installed
	$(BIN)/ruff format --check src tests experiments docs
	$(BIN)/ruff check src tests experiments docs
	$(BIN)/mypy

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-test: $(VENV)/installed $(VENV)/sweep/installed
	$(BIN)/python -m pytest -n 0 -m docs tests/docs

wheel: $(VENV)/installed
	$(BIN)/python -m build --wheel

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("omni-rlvr needs Python 3.11 or newer; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The extras sweep and ray, in a folder of their own: Hydra imports all its plugins at every start, and Optuna's takes 0.7 s.
# What these need besides is there already (alembic and SQLAlchemy come with MLflow), or is not used: Ray's dashboard, boto3.
$(VENV)/sweep/installed: $(VENV)/installed
	rm -rf $(VENV)/sweep
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt --target $(VENV)/sweep \
	  hydra-joblib-launcher hydra-optuna-sweeper joblib optuna cmaes colorlog hydra-submitit-launcher submitit \
	  hydra-ray-launcher ray cloudpickle msgpack jsonschema jsonschema-specifications referencing rpds-py
	touch $@

# The extra qlora, in a folder of its own: peft imports bitsandbytes at every start where it finds it.
$(VENV)/qlora/installed: $(VENV)/installed
	rm -rf $(VENV)/qlora
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt --target $(VENV)/qlora bitsandbytes
	touch $@

clean:
	rm -rf $(VENV) dist outputs data site
