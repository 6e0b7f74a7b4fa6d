# make demo: train a spiking network on handwritten digits.   make test: lint, types, tests.
# make docs: the documentation as a site, in site/.   make serve-docs: the same while one writes, on a local port.
# make tutorials: the tutorials at full size, of which the site shows the results; PAGE=chirp for one (needs SPIKELOOM_DATA).
# make bench: time spikeloom beside its peers; BENCH="--work a,b --systems spikeloom,jax" for part of it.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo
BENCH ?=
PAGE ?=

.PHONY: demo test lint types unit docs serve-docs tutorials bench bench-peers clean
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

# Each tutorial runs at toy size while the site is built. Warnings are errors.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve-docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

tutorials: .venv/installed
	$(BIN)/python docs/hooks/tutorial.py $(PAGE)

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

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf .venv build dist site .pytest_cache .ruff_cache
