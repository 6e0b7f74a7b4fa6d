# make demo: train a spiking network on handwritten digits.   make test: lint, types, tests.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo

.PHONY: demo test lint types unit clean
demo: .venv/installed
	$(BIN)/spikeloom train digits --out $(OUT)

test: lint types unit

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/pyright

unit: .venv/installed
	$(BIN)/python -m pytest -n auto tests src

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'spikeloom needs Python 3.11 or newer; this is ' + sys.version + '. Name another with: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
