# Everything runs in .venv, which is made on the first call.
# Another Python:  make course PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help course test fuzz lab bench readme picture clean

help:
	@echo 'make course   run every notebook and write pages to read to _course/'
	@echo 'make lab      open JupyterLab on the course'
	@echo 'make test     run everything that CI runs'
	@echo 'make fuzz     try each property of tests/test_properties*.py on 20,000 random examples, or EXAMPLES=50000'
	@echo 'make bench    time the ladder, a training step against autograd, and tracing one'
	@echo 'make readme   write README.md from nbs/index.ipynb'
	@echo 'make picture  take the picture of the stepper in README.md anew (needs Chromium and chromedriver)'
	@echo 'make clean    remove what the others wrote, except $(VENV)'

# The empty file .installed says that the environment is as these files want it.
$(VENV)/.installed: settings.ini setup.py pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and '$(PYTHON)' is: $$("$(PYTHON)" --version 2>&1)"; \
		echo "Name another one, as in: make course PYTHON=python3.12"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

course: $(VENV)/.installed
	@$(RUN) tools/run_notebooks.py --out _course

test: $(VENV)/.installed
	@$(RUN) -m pytest

# `make fuzz EXAMPLES=50000` hands the number on to tests/conftest.py.
fuzz: $(VENV)/.installed
	@$(RUN) -m pytest tests/test_properties.py tests/test_properties_autograd.py --hypothesis-profile=fuzz --hypothesis-show-statistics

lab: $(VENV)/.installed
	@$(RUN) -m jupyterlab nbs

bench: $(VENV)/.installed
	@$(RUN) bench/speed.py

readme: $(VENV)/.installed
	@$(RUN) tools/write_readme.py

picture: $(VENV)/.installed
	@$(RUN) tools/take_picture.py

clean:
	rm -rf _course build dist .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
