# `make help` lists the targets. Every target makes what it needs: Python >= 3.11 and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs
DIST := $(VENV)/.dist
MUTANTS := $(VENV)/.mutants
UNFINISHED := $(VENV)/.unfinished
# Whether an earlier make has finished the environment; it is made anew where not.
WHOLE := $(shell test -e $(PACKAGE) && test ! -e $(UNFINISHED) && test -x $(BIN)/python && echo yes)

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick lint format docs man dist conformance torture fuzz mutants bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# $(call install,WHAT) installs into $(VENV). Where that is interrupted, even by kill -9, $(UNFINISHED) stays, and the next
# make begins anew. Where pip itself gives up, say without a network, the environment is as it was.
define install
trap 'exit 130' INT TERM HUP; touch $(UNFINISHED); status=0; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check $(1) || status=$$?; \
test $$status -ge 128 || rm -f $(UNFINISHED); exit $$status
endef

ifneq ($(WHOLE),yes)
.PHONY: $(PACKAGE)
endif

$(PACKAGE): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Installing into $(VENV), once ..."
	@test "$(WHOLE)" = yes || { rm -f $(PACKAGE) $(DEV) $(DOCS) $(DIST) $(MUTANTS) && $(PYTHON) -m venv --clear $(VENV); }
	@$(call install,--upgrade "pip>=25.1")
	@$(call install,--editable '.[web]')
	@touch $@

$(DEV): $(PACKAGE)
	@echo "Installing what tests and checks need, once ..."
	@$(call install,--group dev)
	@touch $@

$(DOCS): $(PACKAGE)
	@echo "Installing what builds the documentation, once ..."
	@$(call install,--group docs)
	@touch $@

$(DIST): $(DEV)
	@echo "Installing what builds distributions, once ..."
	@$(call install,--group dist)
	@touch $@

$(MUTANTS): $(DEV)
	@echo "Installing what makes mutants, once ..."
	@$(call install,--group mutants)
	@touch $@

demo: $(PACKAGE) ## a simulated million-core machine and the server, ready for real clients
	@$(BIN)/spalloc-admin demo $(ARGS)

test: $(DEV) ## the test suite, with coverage; where CI is set, with 10 s of fuzzing for each kind of input
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-$${CI:+10}} $(BIN)/python -m pytest -n 2 --cov --cov-report= $(ARGS)
	@$(BIN)/coverage report --fail-under=90
	@$(BIN)/coverage report --include='*/core/*' --fail-under=95
	@$(BIN)/coverage report --include='*/application/*' --fail-under=95

test-quick: $(DEV) ## half a minute of tests: the rooms that start no processes, and one server from end to end
	@$(BIN)/python -m pytest --quick -n 2 -q $(ARGS)

lint: $(DEV) ## formatting, lint, types, layering, what of the documentation comes from the code
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python docs/make_tables.py --check
	@$(BIN)/python docs/make_files.py --check

format: $(DEV) ## format, mend what can be mended, and write what of the documentation comes from the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python docs/make_tables.py
	@$(BIN)/python docs/make_files.py

docs: $(DOCS) ## the documentation, in docs/_build/index.html
	@$(BIN)/python docs/make_tables.py
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky docs docs/_build
	@echo "docs/_build/index.html is built"

man: $(PACKAGE) ## the manual pages in docs/man, from what --help says; and the JSON schema of config files
	@$(BIN)/python docs/make_files.py

dist: $(DIST) ## wheel and sdist in dist, each tried in an environment of its own
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .
	@$(BIN)/python -m pytest tests/distribution --run-distribution -m distribution -q --timeout 1800 $(ARGS)

conformance: $(DEV) ## the published clients and server, each in an environment of its own
	@$(BIN)/python -m pytest tests/conformance --run-conformance -m conformance -n 2 --timeout 1800 $(ARGS)

torture: $(DEV) ## kill -9, faults and load: long, bounded, reproducible by seed
	@$(BIN)/python -m pytest --run-torture -m torture --timeout 3600 $(ARGS)

fuzz: $(DEV) ## damaged input of every kind, each for FUZZ_SECONDS (60)
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-60} $(BIN)/python -m pytest tests/test_fuzz.py --timeout 3600 $(ARGS)

mutants: $(MUTANTS) ## how many small changes of core, application and hardware the tests notice: SEED=n, 20 minutes
	@$(BIN)/python -m tools.mutants --seed $(or $(SEED),1) $(ARGS)

bench: $(DEV) ## the benchmarks, side by side with the published server
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove everything that the other targets made
	rm -f $(PACKAGE)
	rm -rf $(VENV) .venvs build dist docs/_build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
