# One word per job. Every target sets up what it needs in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := audio image text video
SETUP := pyproject.toml $(PLUGINS:%=plugins/%/pyproject.toml) constraints.txt Makefile
DEMO_ITEMS ?= 120000

.PHONY: install demo test slow gpu check lint types floors bench quality docs clean

# The stamp's name is a hash of everything that decides what is installed, so a change of any sets up anew.
STAMP := $(VENV)/.installed-$(shell cat $(SETUP) | cksum | cut -d' ' -f1)-$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')

install: $(STAMP)

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable ".[dev,docs,track,hub,export,serve]" --editable "plugins/image[standard]" --editable "plugins/text[wordllama]" \
		--editable plugins/video --editable plugins/audio torchvision torchaudio
	rm -f $(VENV)/.installed-* && touch $@

# The demo alone needs no more than genkit and pictures.
DEMO_STAMP := $(STAMP)-demo

$(DEMO_STAMP):
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable . --editable plugins/image
	rm -f $(VENV)/.installed-* && touch $@

demo: $(if $(wildcard $(STAMP)),,$(DEMO_STAMP))
	$(BIN)/genkit train image --out runs/demo --overwrite --items $(DEMO_ITEMS)
	$(BIN)/genkit generate runs/demo -n 64 --out runs/demo/grid.png
	@echo
	@echo "Open runs/demo/grid.png: 64 garments that do not exist, from a model trained on this machine just now."
	@echo "How it learned: runs/demo/samples/    What it is: $(BIN)/genkit info runs/demo"
	@echo "Try next:"
	@echo "  $(BIN)/genkit generate runs/demo -n 8 --seed 7 --out samples/          # one PNG each"
	@echo "  $(BIN)/genkit train image --data YOUR/PICTURES --out runs/mine         # your own folder"
	@echo "  $(BIN)/genkit train image --out runs/classes options.conditional=true    # then: generate --label Sneaker"

# One thread: networks of tests are too small to gain from more, and threads wait for each other on busy cores. Workers
# share what one of them has compiled, even where the environment wants no bytecode on the disk.
test: install
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4

slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow -s

# On a machine with a CUDA device, some five minutes.
gpu: install
	$(BIN)/python -m pytest -q -m gpu -s tests/test_gpu.py
	$(BIN)/python tests/benchmarks/step.py --device cuda --plan auto
	$(BIN)/python tests/benchmarks/step.py --device cuda --plan auto --preset compact --size 32 --steps 10
	$(BIN)/python tests/benchmarks/step.py --device cuda --plan auto --preset projected --size 256 --batch 32 --pairs 5

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

floors: install
	$(BIN)/lint-imports

check: lint types floors test

bench: install
	$(BIN)/python tests/benchmarks/step.py
	$(BIN)/python tests/benchmarks/step.py --plan auto
	$(BIN)/python tests/benchmarks/step.py --preset compact --size 32 --steps 10
	$(BIN)/python tests/benchmarks/clip_step.py
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/generate.py

# A folder of pictures, or an IDX file: make quality DATA=FOLDER (sets to take: tests/benchmarks/picture_sets.py)
quality: install
	$(BIN)/python tests/benchmarks/quality.py --data $(DATA)

docs: install
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -j auto -W --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf .make build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
