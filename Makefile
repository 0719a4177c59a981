# The same few words on a laptop and in CI. They make what they need; all they ask for is Linux and Python >= 3.10.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# The frameworks that integrations are tested with; "make test FRAMEWORKS=" does without, and says which tests it skips.
FRAMEWORKS ?= frameworks

.PHONY: setup lint types test crash bench demo

setup: .venv/made $(FRAMEWORKS:%=.venv/%) .venv-mlflow2/made

lint: .venv/made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/made
	$(BIN)/mypy

test: setup lint types
	$(BIN)/pytest -n auto --no-loadscope-reorder

crash: setup
	$(BIN)/pytest tests/crash -m "long or not long"

bench: .venv/made
	$(BIN)/python $(PIP_INSTALL) -e '.[bench]'
	$(BIN)/python tests/bench

demo: .venv/made
	$(BIN)/trainspool demo

.venv/made: pyproject.toml
	$(call make_venv,.venv)
	.venv/bin/python $(PIP_INSTALL) -e '.[test]'
	@touch $@

# Apart from the rest: PyTorch and its company are gigabytes, which the demo does without.
.venv/frameworks: pyproject.toml .venv/made
	.venv/bin/python $(PIP_INSTALL) -e '.[test,frameworks]'
	@touch $@

# The second judge of the store: MLflow 2.22 reads other keys of meta.yaml than 3.x, and needs no flag for a file store.
.venv-mlflow2/made: Makefile
	$(call make_venv,.venv-mlflow2)
	.venv-mlflow2/bin/python $(PIP_INSTALL) 'mlflow-skinny==2.22.*'
	@touch $@

# Debian and Ubuntu ship venv apart from Python: say so, rather than leave a half-made folder.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "trainspool needs Python >= 3.10; $(PYTHON) is older. Next: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. Next: sudo apt-get install python3-venv (Debian, Ubuntu)"; exit 1; }
	$(PYTHON) -m venv $(1)
endef
