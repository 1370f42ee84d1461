# Two commands on a fresh machine, each doing its own set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO ?= demo
STEPS ?= 200

export PYTHONDONTWRITEBYTECODE =  # compiled files are kept, whatever the shell says: every process of a test reads them

.PHONY: bench-smoke demo docs test test-integrations suite fuzz lint style types install clean

install: $(VENV)/installed

$(VENV)/plain: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geossl needs Python >= 3.11; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed: $(VENV)/plain
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/plain
	$(BIN)/geossl pretrain recipes/croma.yaml encoder.init=croma_tiny train.max_steps=$(STEPS) out=$(DEMO)/run resume=true
	$(BIN)/geossl embed --aoi sample --s1 sample --s2 sample --gsd 20 \
		--encoder $(DEMO)/run/encoder.safetensors --out $(DEMO)/embedding.zarr
	$(BIN)/python examples/demo_page.py $(DEMO)

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: style types

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

suite: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

test: style  # types beside the suite: mypy uses one core and the suite waits for torch while it starts
	$(MAKE) --no-print-directory -j 2 docs types suite

clean:
	rm -rf $(VENV) $(DEMO) runs build

# In a virtual environment of its own: terratorch, rslearn and geobenchv2 bring much that geossl does without.
# One after the other: asked for all at once, pip weighs versions for an hour.
test-integrations:
	$(PYTHON) -m venv $(VENV)-integrations
	$(VENV)-integrations/bin/pip install --quiet --disable-pip-version-check --upgrade pip
	$(VENV)-integrations/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(VENV)-integrations/bin/pip install --quiet --disable-pip-version-check -e '.[terratorch]' rslearn wandb
	$(VENV)-integrations/bin/pip install --quiet --disable-pip-version-check -e '.[geobench2]' 'tacotoolbox<0.6'
	OMP_NUM_THREADS=1 $(VENV)-integrations/bin/python -m pytest -q tests/integrations

fuzz: install
	OMP_NUM_THREADS=1 GEOSSL_FUZZ=$(or $(ROUNDS),500) $(BIN)/python -m pytest -q -n auto --dist worksteal tests/fuzz

bench-smoke: install
	$(BIN)/python benchmarks/smoke.py
