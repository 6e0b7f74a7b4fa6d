# make demo: train a spiking network on handwritten digits.   make test: lint, types, tests.
# make bench: time spikeloom beside its peers; BENCH="--work a,b --systems spikeloom,jax" for part of it.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo
BENCH ?=

.PHONY: demo test lint types unit bench bench-peers clean
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

bench: bench-peers
	$(BIN)/python -m benchmarks $(BENCH)

# The peers' environments, in benchmarks/.environments; a peer that cannot be installed is listed with the reason.
bench-peers: .venv/installed
	$(BIN)/python -m benchmarks.environments

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'spikeloom needs Python 3.11 or newer; this is ' + sys.version + '. Name another with: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
