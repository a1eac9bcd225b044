# Every command of the study. Nothing has to be activated: the first one makes .venv from the lock.

VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
STUDY = $(BIN)/python -m ae_lib.study --end-with-parent

# The first Python on the path that TensorFlow's wheels support; `make PYTHON=…` overrides.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null \
	&& { echo $$python; break; }; done)

# `make -j1 report`: notebooks side by side; by default one for each core.
JOBS = $(patsubst -j%,--jobs %,$(filter-out -j,$(filter -j%,$(MAKEFLAGS))))

# Kernels run in the notebooks' folder, so a relative AE_DATA_DIR would point elsewhere there.
ABSOLUTE = $${AE_DATA_DIR:+AE_DATA_DIR="$$(cd "$$AE_DATA_DIR" && pwd)"}

# Whatever the file says, nothing is ready for a Python that has gone, or that is of another version.
ifneq ($(shell $(BIN)/python -c 'import pip' 2> /dev/null || echo gone),)
.PHONY: $(READY)
endif

# The user's own configuration is kept out of kernels and tests.
export MATPLOTLIBRC = /dev/null
export MPLBACKEND =
export PYTHONSTARTUP =
export PYTHONUTF8 = 1
export PYTHONNOUSERSITE = 1
export JUPYTER_PREFER_ENV_PATH = 1
export IPYTHONDIR = $(abspath $(VENV))/ipython
unexport JUPYTER_PATH

# A test process for each core: more threads would only wait for each other.
REPLAY = env TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n auto -p tests.replay --nbval --nbval-current-env --nbval-sanitize-with=tests/replay.cfg \
	--dist loadscope --no-loadscope-reorder

.PHONY: help lab report pdf times sweep test validate baselines reference benchmark rivals lock clean
.DEFAULT_GOAL := help

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

lab: $(READY) ## open the notebooks in JupyterLab
	@env $(ABSOLUTE) $(BIN)/jupyter lab --notebook-dir . --FileContentsManager.preferred_dir notebooks

report: $(READY) ## execute what is out of date, write reports/<profile>/ (PROFILE=mnist|digits|latent_size|own_images|yours, -j1)
	@$(STUDY) report $(PROFILE) $(JOBS)

pdf: $(READY) ## print the pages of a finished report into reports/<profile>/report.pdf: needs chromium (PROFILE=mnist|digits|yours)
	@$(STUDY) pdf $(or $(PROFILE),mnist)

times: $(READY) ## where the seconds of a run went, by notebook and section (PROFILE=mnist|digits|yours)
	@$(STUDY) times $(or $(PROFILE),mnist)

sweep: $(READY) ## execute a grid of runs (SWEEP=smoke|seeds|latent_size|bottleneck|yours, SCHEDULER=tcp://…)
	@$(STUDY) sweep $(or $(SWEEP),smoke) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

test: $(READY) ## style, rooms, library, guards, golden notebooks: no network, no MNIST (COVERAGE=1 measures what they reach)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(REPLAY) --nbval-cell-timeout=600 $(if $(COVERAGE),--cov --cov-report=term) tests $(wildcard notebooks/13_*.ipynb notebooks/14_*.ipynb)

validate: $(READY) ## replay the MNIST notebooks, check the published models, resume a killed training: needs MNIST (WITHOUT="09 10 12")
	@env $(ABSOLUTE) $(REPLAY) --nbval-cell-timeout=1800 $(foreach number,15 $(WITHOUT),--ignore-glob='notebooks/$(number)_*') \
		tests/test_resume_on_mnist.py tests/test_published.py notebooks

baselines: $(READY) ## execute and store the golden notebooks, and the paired ones (needs MNIST)
	@$(STUDY) store digits
	@$(STUDY) store latent_size
	@$(STUDY) store own_images
	@$(STUDY) store mnist

reference: $(READY) ## measure reports/reference/<profile>.json over seeds, as a sweep (PROFILE=mnist|digits, SCHEDULER=tcp://…)
	@$(STUDY) measure $(or $(PROFILE),digits) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

benchmark: $(READY) ## race this training against Keras, PyTorch and JAX: 15 minutes, on an otherwise idle machine
	@$(STUDY) report benchmark --jobs 1
	@echo "to keep its notebook in notebooks/: $(BIN)/python -m ae_lib.study store benchmark"

rivals: $(READY) ## install PyTorch and JAX beside the locked packages, for `make benchmark`
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[benchmark]'

lock: $(READY) ## resolve requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra study --extra site --extra sweep --extra test --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --no-strip-extras --upgrade --quiet \
		--custom-compile-command 'make lock' --output-file requirements.lock

clean: ## remove .venv and the results of runs; reference results stay
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .coverage *.egg-info
	find reports -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +

# uv, itself from the lock, installs the rest in half a minute; where there is none for the machine, pip does.
# Compiled at once, since Keras takes three times as long to import where Python may not write bytecode.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python from 3.11 to 3.13 was found; install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || test -d $(VENV)/conda-meta || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing the locked packages into $(VENV)"
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.txt
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt; \
	then $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock; \
	else $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
