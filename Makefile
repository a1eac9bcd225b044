# Every command of the study. Nothing has to be activated: the first command that needs it makes .venv from the lock.

VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

# The first Python on the path that TensorFlow's wheels support; `make PYTHON=…` overrides.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null \
	&& { echo $$python; break; }; done)

# `make -j4 report`: how many notebooks may run side by side; `-j` alone means two.
JOBS = $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),$(if $(filter -j --jobserver%,$(MAKEFLAGS)),2,1))

# Kernels run in the notebooks' folder, so a relative AE_DATA_DIR would point elsewhere there.
ABSOLUTE = $${AE_DATA_DIR:+AE_DATA_DIR="$$(cd "$$AE_DATA_DIR" && pwd)"}

.PHONY: help lab report sweep test validate baselines reference benchmark peers lock clean
.DEFAULT_GOAL := help

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

lab: $(READY) ## open the notebooks in JupyterLab
	@env $(ABSOLUTE) $(BIN)/jupyter lab notebooks

report: $(READY) ## execute what is out of date and write reports/<profile>/ (PROFILE=mnist|digits|latent_size|yours, -j2)
	@$(BIN)/python -m ae_lib.report $(PROFILE) --jobs $(JOBS)

sweep: $(READY) ## execute a grid of runs on Dask and write reports/sweeps/<name>/ (SWEEP=smoke|seeds|latent_size|bottleneck|yours, SCHEDULER=tcp://…)
	@$(BIN)/python -m ae_lib.sweep $(or $(SWEEP),smoke) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

test: $(READY) ## test the library, replay the golden notebooks and 13, check the guards: no network, no MNIST
	$(BIN)/ruff check .
	$(BIN)/python -m pytest tests --cov --cov-report=term
	$(BIN)/python -m pytest -p tests.replay --nbval --nbval-current-env --nbval-cell-timeout=600 tests/golden \
		notebooks/13_study_latent_size.ipynb

validate: $(READY) ## replay the MNIST notebooks and compare their outputs, kill and resume a training: needs MNIST (WITHOUT="09 10 12")
	@env $(ABSOLUTE) $(BIN)/python -m pytest tests/test_mnist.py
	$(BIN)/python -m pytest -p tests.replay --nbval --nbval-current-env --nbval-cell-timeout=1800 \
		$(foreach number,11 $(WITHOUT),--ignore-glob='notebooks/$(number)_*') notebooks

baselines: $(READY) ## execute the paired notebooks and the golden ones again (needs MNIST)
	@$(BIN)/python -m ae_lib.reference baselines

reference: $(READY) ## measure reports/reference/<profile>.json, as a sweep: three to ten seeds, other CPU code paths (PROFILE=mnist|digits, SCHEDULER=tcp://…)
	@$(BIN)/python -m ae_lib.reference measure $(or $(PROFILE),digits) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

benchmark: $(READY) ## race this training against Keras, PyTorch and JAX: 25 minutes, on an otherwise idle machine
	@$(BIN)/python -m ae_lib.report benchmark
	@echo "to keep its notebook in notebooks/: $(BIN)/python -m ae_lib.reference notebooks benchmark"

peers: $(READY) ## install PyTorch and JAX beside the locked packages, for `make benchmark`
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[benchmark]'

lock: $(READY) ## resolve requirements.lock again from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --no-strip-extras --upgrade --quiet --custom-compile-command 'make lock' --output-file requirements.lock

clean: ## remove .venv and the results of runs; reference results stay
	rm -rf .venv .pytest_cache .ruff_cache .coverage *.egg-info
	find reports -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python from 3.11 to 3.13 was found; install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV): two or three minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
