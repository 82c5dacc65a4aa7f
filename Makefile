# Two targets a user needs: `make demo` and `make test`. Both do their own set-up, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint clean

setup: .venv/.ready

.venv/.ready: setup.cfg pyproject.toml scripts/install_detectron2.py scripts/setup.sh
	PYTHON="$(PYTHON)" bash scripts/setup.sh

demo: setup
	$(BIN)/python scripts/demo.py

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv demo build *.egg-info
