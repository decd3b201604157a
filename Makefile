# Everything here works on a fresh clone; the virtual environment is made when it is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := core server client export benchmarks tests demo examples model_repository
TOOLS := .venv-tools
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
SPACE := $(subst ,, )
CLIENT := .venv-client
WORKERS ?= 3

.PHONY: help demo demo-quality check lint types test test-client test-full gpu full-size performance policy tools clean

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[server,export]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.serve

demo: $(VENV)/.serve  ## A photo in, a video out, through the real server: out/demo.mp4
	$(BIN)/python demo/run.py

demo-quality: $(VENV)/.dev  ## Judges the demo checkpoint on 16 unseen images: out/quality/index.html
	$(BIN)/python -m zoetrope_bench.demo_quality --out out/quality

check: lint types test-client test  ## What CI runs

lint: $(VENV)/.dev  ## ruff
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/.dev  ## mypy, strict, for both versions of Python
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.12

test: $(VENV)/.dev  ## All tests but the long ones
	$(BIN)/python -m pytest -n $(WORKERS) -m "not full"

# The client as people install it: without the server's libraries, and with numpy 2.
$(CLIENT)/.done: pyproject.toml
	$(PYTHON) -m venv $(CLIENT)
	$(CLIENT)/bin/python -m pip install --quiet -e . pytest pytest-asyncio pytest-timeout pytest-xdist hypothesis 'numpy>=2'
	touch $@

test-client: $(CLIENT)/.done  ## Tests of core and client in an environment that has nothing else
	$(CLIENT)/bin/python -m pytest -q tests/unit/test_core_*.py tests/unit/test_client_*.py tests/contract/test_wire.py

test-full: $(VENV)/.dev  ## All tests, the long ones too
	$(BIN)/python -m pytest -n $(WORKERS)

# An environment of its own: its dependencies are pinned, and not to ours. It asks nobody and downloads no rules.
out/policy/bin/checkov:
	$(PYTHON) -m venv out/policy
	out/policy/bin/python -m pip install --quiet checkov==3.3.30

policy: out/policy/bin/checkov  ## What checkov finds in the manifests; each exception is explained beside what it is of
	rm -rf out/manifests && mkdir -p out/manifests
	for overlay in deploy/kubernetes/overlays/*/; do \
	  kubectl kustomize $$overlay > out/manifests/$$(basename $$overlay).yaml || exit 1; done
	out/policy/bin/checkov --skip-download --framework kubernetes --quiet --compact -d out/manifests

gpu:  ## Everything that needs a GPU, within six minutes: PARTS="0 a", WHEELS=DIRECTORY of what the machine lacks
	PYTHONPATH=$(subst $(SPACE),:,$(wildcard core families server client export benchmarks)) $(GPU_PYTHON) \
		-m zoetrope_bench.gpu.run $(if $(PARTS),--parts "$(PARTS)") $(if $(WHEELS),--wheels $(WHEELS))

full-size: $(VENV)/.dev  ## Engines of SVD-XT with random weights: half an hour, 24 GB of memory, 20 GB of disk
	$(BIN)/python -m zoetrope_bench.full_size --json benchmarks/results/full_size.json

$(TOOLS)/.done: pyproject.toml
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet -e . 'locust>=2.32' tritonclient==2.51.0 nvidia-cuda-runtime-cu12
	touch $@

tools: $(TOOLS)/.done  ## perf_analyzer and locust, in an environment of their own (perf_analyzer needs libb64-0d)
performance: $(VENV)/.dev  ## The README's table, measured on this machine: ten minutes and more
	$(BIN)/python demo/run.py
	$(BIN)/zoetrope bench side-by-side demo/checkpoint out/repository --image demo/photo.jpg \
		--json benchmarks/results/side_by_side.json
	$(BIN)/python -m zoetrope_bench.readme_table

clean:  ## Removes what was built (not the virtual environment)
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
