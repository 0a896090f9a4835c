PYTHON ?= python3
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

DATA ?= ../shared/data/bccd
BENCH ?= docs/results/bench
DEVICE ?= cuda
MINUTES ?= 9
PROSE := README.md CHANGELOG.md CONTRIBUTING.md docs/*.md docs/*/*.md
GPU ?= gpu-out/$(DEVICE)

# Not compiled by pip; so let Python keep what it compiles, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow test-lowest test-newest bench gpu gpu-kit docs dist check lint types format install lock clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## create .venv and install grcn with its development tools
# Twenty thousand modules, most of them never imported: Python compiles what it imports.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps tidecv==1.0.1
	touch $@

lock:  ## uv.lock by pyproject.toml, with what is newest where it changed; needs uv
	$(UV) lock

demo: $(INSTALLED)  ## train, evaluate and draw on the embedded set: the main job from start to end
	$(BIN)/grcn demo

test: $(INSTALLED)  ## the whole test suite, with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered --cov-fail-under=90 --durations=15 -m 'not slow'

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-lowest:  ## the test suite at the lowest versions that pyproject.toml admits, in .venv-lowest; needs uv and Python 3.11
	$(UV) venv --quiet --clear --python python3.11 .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	$(UV) pip install --quiet --python .venv-lowest/bin/python --no-deps tidecv==1.0.1
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-newest:  ## the test suite at the newest versions, in .venv-newest; PYTHON=python3.13 for another Python; needs uv
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-newest
	$(UV) pip install --quiet --python .venv-newest/bin/python -e '.[dev]'
	$(UV) pip install --quiet --python .venv-newest/bin/python --no-deps tidecv==1.0.1
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow'

bench: $(INSTALLED)  ## the benchmarks beside their peers, an hour on two idle cores; DATA is a folder of photos such as bccd
	$(BIN)/python benchmarks/inference.py --out $(BENCH)/inference.json
	$(BIN)/python benchmarks/presets.py --out $(BENCH)/presets.json
	$(BIN)/python benchmarks/presets.py --optimize bf16 --out $(BENCH)/presets-bf16.json
	$(BIN)/python benchmarks/ablation.py --out $(BENCH)/ablation.json
	$(BIN)/python benchmarks/training.py --out $(BENCH)/training.json
	$(BIN)/python benchmarks/matching.py --out $(BENCH)/matching.json
	$(BIN)/python benchmarks/trial.py --out $(BENCH)/trial.json
	$(BIN)/python benchmarks/lite.py --out $(BENCH)/lite.json
	$(BIN)/python benchmarks/evaluation.py --out $(BENCH)/evaluation.json
	$(BIN)/python benchmarks/loader.py $(DATA) --out $(BENCH)/loader.json
	$(BIN)/python benchmarks/steps.py $(DATA) --out $(BENCH)/steps.json
	$(BIN)/python benchmarks/serve.py --out $(BENCH)/serve.json
	$(BIN)/python benchmarks/export.py --data $(DATA) --out $(BENCH)/export.json

gpu:  ## half an hour on a GPU, nine minutes a call, where PYTHON has torch: correctness, speed, a profile, trials of a study
	$(PYTHON) benchmarks/gpu_kit.py --unpack gpu-kit --out $(GPU)
	PYTHONPATH=$(CURDIR)/src:$(abspath $(GPU))/kit/site $(PYTHON) benchmarks/gpu.py --device $(DEVICE) --minutes $(MINUTES) \
	  --out $(GPU) $(if $(STUDY),--study $(STUDY)) $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(ARCHIVE),--archive $(ARCHIVE))

gpu-kit: $(INSTALLED)  ## what an offline GPU machine lacks, into gpu-kit/: wheels, and DATA, WEIGHTS and EARLIER where given
	$(BIN)/python benchmarks/gpu_kit.py --data $(DATA) --weights $(WEIGHTS) --earlier $(EARLIER) --out gpu-kit

docs: $(INSTALLED)  ## the documentation site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

dist: $(INSTALLED)  ## wheel and source archive, into dist/
	$(BIN)/python -m build

check: lint types test  ## everything that CI runs

lint: $(INSTALLED)  ## format, lint, spelling and width of prose, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell $(PROSE) src tests benchmarks
	$(BIN)/pymarkdown scan $(PROSE)

types: $(INSTALLED)  ## static types, strict
	$(BIN)/mypy

format: $(INSTALLED)  ## format in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest dist site demo .mypy_cache .ruff_cache .pytest_cache
