# `make lab` and `make test` are all that a reader needs; both make the environment (.venv/) first.
PYTHON ?= python3
COLAB_PYTHON ?= $(PYTHON)
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
COLAB := $(subst .venv,.venv-colab,$(BIN))/python

.PHONY: lab test colab oldest book bench gpu results figures notebooks badges clean

# Served from here, not from notebooks/, so that the pictures in assets/ can be seen.
lab: .venv/done            ## open JupyterLab on the series
	$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

test: .venv/done           ## ruff, mypy, unit tests, every notebook under strict nbval
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest tests -n auto --dist loadfile
	STN_SMOKE=1 $(PY) -m pytest --nbval --nbval-cell-timeout=300 -n auto --dist loadscope notebooks

oldest: .venv-oldest/done  ## the ground floor's tests on the oldest torch that is allowed
	$(subst .venv,.venv-oldest,$(BIN))/python -m pytest -q $(addprefix tests/test_,$(addsuffix .py,theta grid sampler families transformer diagnose module))

colab: .venv-colab/done    ## every notebook as Colab runs it: its versions, and the set-up cell that clones and installs
	$(COLAB) -m pytest .ci/test_colab.py

book: .venv/done           ## the series as a static site -> build/book/index.html; Python 3.11 or newer, no network
	$(PY) -m tools.book

bench: .venv/done          ## side-by-side timings -> assets/results/speed.json
	$(PY) -m pytest benchmarks

gpu: .venv/done            ## all that needs a CUDA card, in nine minutes -> assets/results/gpu-NAME.json
	$(PY) -m studies gpu

results: .venv/done        ## tables in README from assets/results/*.json
	$(PY) -m tools.tables

notebooks: .venv/done      ## run every notebook at full length and save it with its outputs
	$(PY) -m tools.run

figures: .venv/done        ## the pictures in assets/; some of them need CIFAR-10 or MNIST
	$(PY) -m tools.figures

badges: .venv/done         ## Colab badges for a fork: make badges REPO=owner/name
	$(PY) -m tools.badges $(REPO)

clean:                     ## remove the environment and the site; data, runs and results stay
	rm -rf .venv .venv-colab .venv-oldest build

.venv/done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[lab,test,book]"
	$(PY) -c "open('.venv/done', 'w')"

.venv-oldest/done: pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	$(subst .venv,.venv-oldest,$(BIN))/python -m pip install --quiet --disable-pip-version-check -e ".[series,test]" torch==2.9.* torchvision==0.24.*
	$(subst .venv,.venv-oldest,$(BIN))/python -c "open('.venv-oldest/done', 'w')"

# Nothing of .venv is in it: what Colab lacks must be missed here too. Colab's Python is 3.12; .ci/run looks for it.
.venv-colab/done: .ci/colab.txt
	$(COLAB_PYTHON) -m venv --clear .venv-colab
	$(COLAB) -m pip install --quiet --disable-pip-version-check -r .ci/colab.txt
	$(COLAB) -c "open('.venv-colab/done', 'w')"
