# make study   the study on phantoms, from data to report.html (results/quick/); PRESET=paper: at the paper's size
# make test    lint and the tests, slow ones left out (make test-slow runs those; make test-long a study killed five times; make test-browser those in Chromium)
# make reference  copies a finished study (PRESET=quick) to results/reference/, which is committed
# make lab     JupyterLab on the notebooks
# make clean   removes .venv, phantoms and results/quick/ (PRESET=...), which can be made again; other studies stay
# Each target sets up .venv by itself; a second call installs nothing.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PRESET ?= quick
CORES ?= $(shell nproc 2>/dev/null || echo 2)
# Two files of tests at a time, each on a core of its own: most of them keep no more than one busy.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: study reference test test-slow test-long test-browser lint lab clean
.DELETE_ON_ERROR:

study: .venv/ready
	$(BIN)/airwaylib reproduce $(PRESET) --cores $(CORES)

reference: .venv/ready
	$(BIN)/python -m airwaystudy.plan.reference $(PRESET)

test: .venv/ready lint
	$(SIDE_BY_SIDE) -m "not slow"

test-slow: .venv/ready
	$(SIDE_BY_SIDE) -m "slow and not long and not browser"
	$(BIN)/python -m pytest -m browser

test-long: .venv/ready
	$(BIN)/python -m pytest -m long

test-browser: .venv/ready
	$(BIN)/python -m pytest -m browser

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: .venv/ready
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

clean:
	rm -rf .venv .snakemake .pytest_cache .ruff_cache .hypothesis airwaylib.egg-info data/phantoms results/$(PRESET)

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "airwaylib needs Python 3.11; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
