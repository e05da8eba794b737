# Needs python3 (>= 3.11) and make; everything else is put into .venv/ by the first target that needs it.
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

# keep what tools write about themselves inside this folder or the temporary one
export UV_NO_CACHE := 1
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export RAY_USAGE_STATS_ENABLED := 0
# keep bytecode, in .venv, whatever the shell says: each process imports PyTorch in 2 s with it, in 5 s without
export PYTHONDONTWRITEBYTECODE :=

.PHONY: sweep debug test test-slow lint docs bench clean

EXPERIMENT ?= quick/digits

sweep: $(READY)  ## the main job: Ray Tune sweeps CCSI on digits, in two phases
	$(VENV)/bin/ccsi sweep experiment=$(EXPERIMENT) $(ARGS)

debug: $(READY)  ## one small trial in this process, without Ray
	$(VENV)/bin/ccsi sweep experiment=$(EXPERIMENT) sweep.debug=true $(ARGS)

test: $(READY)  ## the tests, two at a time
	$(PY) -m pytest -m "not slow" --numprocesses 2 --dist worksteal

test-slow: export CCSI_TEST_SLOW := 1
test-slow: $(READY)  ## what is rare and slow: whole sweeps on Ray, an installed package, property tests at full size
	$(PY) -m pytest -m "(slow or hypothesis) and not alone" --numprocesses 2 --dist worksteal
	$(PY) -m pytest -m alone

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

docs: $(READY)  ## the documentation as a site, in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict --site-dir build/site

bench: $(READY)  ## speed against bare loops
	$(PY) tests/benchmarks/bench_loops.py $(ARGS)

$(READY): pyproject.toml constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 is too old: ccsi needs 3.11 or newer")'
	$(PY) -m pip --version >/dev/null 2>&1 || python3 -m venv --clear $(VENV)  # an interrupted one too
	$(PY) -m pip install --quiet uv
	$(VENV)/bin/uv pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[sweep,wandb,dev,docs]'
	$(PY) -c "import ccsi.experiment, ccsi.report, ccsi.sweep.execution.tuner, sklearn.datasets, sklearn.metrics"  # it works
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
