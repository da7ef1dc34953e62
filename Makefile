# Everything runs in .venv, which is made on the first call.
# Another Python:  make course PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# The empty file .installed says that the environment is as these files want it.
ENV := $(VENV)/.installed

.PHONY: help env course lab chapter test fuzz bench readme picture clean

help:
	@echo 'make course   run every notebook and write pages to read to _course/'
	@echo 'make lab      open JupyterLab on the course'
	@echo 'make test     run everything that CI runs; some of it: make test TESTS="tests/test_shapes.py"'
	@echo 'make chapter NB=02   run, store, clean, export and test one notebook: a number, or toolbox/shapes'
	@echo 'make env      make the environment in $(VENV), which the others do by themselves'
	@echo 'make fuzz     try each property on 20,000 random examples, or EXAMPLES=50000'
	@echo 'make bench    time the ladder, a training step against autograd, and tracing one'
	@echo 'make readme   write README.md from nbs/index.ipynb'
	@echo 'make picture  take the picture of the stepper in README.md anew (needs Chromium and chromedriver)'
	@echo 'make clean    remove what the others wrote, except $(VENV)'

$(ENV): settings.ini setup.py pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and '$(PYTHON)' is: $$("$(PYTHON)" --version 2>&1)"; \
		echo "Name another one, as in: make course PYTHON=python3.12"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

env: $(ENV)

course: $(ENV)
	@$(RUN) tools/run_notebooks.py --out _course

# One process for each core; the longest tests begin first.
test: $(ENV)
	@$(RUN) -m pytest --numprocesses auto --dist worksteal $(TESTS)

chapter: $(ENV)
	@$(RUN) tools/chapter.py "$(NB)"

# `make fuzz EXAMPLES=50000` hands the number on to tests/conftest.py.
fuzz: $(ENV)
	@$(RUN) -m pytest -m hypothesis --hypothesis-profile=fuzz --hypothesis-show-statistics

lab: $(ENV)
	@$(RUN) -m jupyterlab nbs

bench: $(ENV)
	@$(RUN) bench/speed.py

readme: $(ENV)
	@$(RUN) tools/write_readme.py

picture: $(ENV)
	@$(RUN) tools/take_picture.py

clean:
	rm -rf _course build dist .pytest_cache .mypy_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
