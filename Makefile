# Every target sets itself up: the first call makes .venv and installs the project into it.
PYTHON ?= python3
BIN := .venv/bin
DEMO := examples/demo
RUN := $(BIN)/ft-dagster --project $(DEMO)
# What tests make goes into memory where that has room and runs programs: each commit of a store waits for its disk.
ROOM := $(shell df --output=avail -k /dev/shm 2>/dev/null | tail -1)
IN_MEMORY := $(shell [ "$(ROOM)" -gt 8000000 ] 2>/dev/null && ! grep -q " /dev/shm .*noexec" /proc/mounts && echo TMPDIR=/dev/shm)
# One a core; `test` has one more: a sixth of a worker's time there is waiting for programs.
WORKERS := 2
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Where it is set, each of the hundreds of programs that tests start compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE
HANGS := -o faulthandler_timeout=1200 -o faulthandler_exit_on_timeout=true  # a test that does not end fails by its name

.PHONY: install demo ui reference docs screenshots test quick test-all slurm lint format compat release-check clean gpu-pack bench

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "installing packages into .venv"
	@began=$$(date +%s); set -e; \
	$(PYTHON) -m venv .venv; \
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'; \
	echo "installed in $$(($$(date +%s) - began)) s"
	@touch $@

.venv/extras: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,clusters]'
	touch $@

demo: install  ## three tenants' models: prepared, trained, judged, released; then asked
	$(BIN)/python $(DEMO)/demo.py

ui: install  ## the demo's instance in Dagster's UI
	$(RUN) ui

reference: install  ## docs/reference/, from the code
	$(BIN)/python -m tests.docs.reference

docs: install  ## the documentation as a site, site/index.html; a dead link or anchor ends it
	$(BIN)/sphinx-build -E -a -W --keep-going -q -c docs . site
	cp site/README.html site/index.html

screenshots: install  ## the pictures of docs/ui.md, after `make demo`; needs Chromium
	$(BIN)/python -m tests.e2e.screenshots $(DEMO)

test: WORKERS := 3
test: install  ## what CI runs
	$(IN_MEMORY) $(PYTEST) $(HANGS) -m "not long"

quick: install  ## the inner loop
	$(IN_MEMORY) $(PYTEST) -m "not slow and not long"

test-all: .venv/extras  ## also what takes long and what varies a quicker test: the whole demo, and what needs an extra (ray, k8s)
	$(PYTEST)

slurm:  ## as root: Debian's Slurm, without which tests/e2e/test_slurm.py is skipped
	apt-get install -y slurmctld slurmd slurm-client munge

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## beside TRL, LLaMA-Factory, bare scripts and datasets.map, after `make demo`; needs a package index
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/chains.py
	$(BIN)/python benchmarks/preparation.py

gpu-pack: install  ## loads for a machine with a GPU and no network; benchmarks/gpu/README.md
	$(BIN)/python benchmarks/gpu/pack.py $(GPU_PACK)

compat: install  ## the light core under each Python and both ends of Dagster's range; needs a package index
	$(BIN)/python -m tests.compat.matrix $(if $(CELL),--cell $(CELL))

release-check: install  ## wheel and sdist, and the wheel tried in a fresh environment; needs a package index
	rm -rf dist .release
	$(BIN)/pip install -q build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv .release
	.release/bin/pip install -q -c constraints.txt dist/*.whl
	cd .release && bin/python -c "import ft_dagster; print(ft_dagster.__version__)"
	echo '{"prompt": "a", "completion": "b"}' > .release/rows.jsonl
	cd .release && bin/ft-dagster init project --base-model org/base --data rows.jsonl && bin/ft-dagster schema
	cd .release && bin/python -c "import ft_dagster.definitions"

clean:
	rm -rf .venv .release dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache
