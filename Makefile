# `make lab` and `make test` are all that a reader needs; both make the environment (.venv/) first.
PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
COLAB := $(subst .venv,.venv-colab,$(BIN))/python

.PHONY: lab test colab book bench results figures notebooks badges clean

# Served from here, not from notebooks/, so that the pictures in assets/ can be seen.
lab: .venv/done            ## open JupyterLab on the series
	$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

test: .venv/done           ## ruff, unit tests, every notebook under strict nbval
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest tests
	STN_SMOKE=1 $(PY) -m pytest --nbval --nbval-cell-timeout=300 notebooks

colab: .venv-colab/done    ## every notebook again, on the IPython, ipykernel and ipywidgets that Colab has
	STN_SMOKE=1 $(COLAB) -m pytest --nbval --nbval-cell-timeout=300 .ci/test_colab.py notebooks

book: .venv/done           ## the series as a static site -> build/book/index.html; Python 3.11 or newer, no network
	$(PY) -m tools.book

bench: .venv/done          ## side-by-side timings -> assets/results/speed.json
	$(PY) -m pytest benchmarks

results: .venv/done        ## tables in README from assets/results/*.json
	$(PY) -m tools.tables

notebooks: .venv/done      ## run every notebook at full length and save it with its outputs
	$(PY) -m tools.run

figures: .venv/done        ## the pictures in assets/; one of them needs CIFAR-10
	$(PY) -m tools.figures

badges: .venv/done         ## Colab badges for a fork: make badges REPO=owner/name
	$(PY) -m tools.badges $(REPO)

clean:                     ## remove the environment and the site; data, runs and results stay
	rm -rf .venv .venv-colab build

.venv/done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[lab,test,book]"
	$(PY) -c "open('.venv/done', 'w')"

# Only the pins in .ci/colab.txt are installed here. For all else, torch's 5 GB and this checkout first, a .pth file points into .venv:
# what is installed here hides its newer twin there, and pip leaves alone what is not under its own prefix.
.venv-colab/done: .venv/done .ci/colab.txt
	$(PY) -m venv --clear --without-pip .venv-colab
	$(PY) -c "import os; from sysconfig import get_path as at; print(at('purelib'), os.getcwd(), sep='\n', file=open(at('purelib', vars={'base': '.venv-colab'}) + '/venv.pth', 'w'))"
	$(COLAB) -m pip install --quiet --disable-pip-version-check -r .ci/colab.txt
	$(COLAB) -c "open('.venv-colab/done', 'w')"
