# `make lab` and `make test` are all that a reader needs; both make the environment first.
PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

lab: .venv/done            ## open JupyterLab on the series
	$(BIN)/python -m jupyterlab notebooks

.venv/done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[lab,test]"
	$(BIN)/python -c "open('.venv/done', 'w')"

.PHONY: lab
