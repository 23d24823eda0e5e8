# `make help` lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
HOST ?= redoubt-1
INVENTORY ?= inventory
BIN := .venv/bin
SANDBOX := $(BIN)/python -m sandbox
STAMP := .venv/.complete

# With this variable set, each of the thousand commands that the tests run would compile five hundred modules again.
# `make clean` removes the compiled files.
unexport PYTHONDONTWRITEBYTECODE

DEPLOY := pyinfra -y inventory deploy.py
# The tests without a host, those of the deployed host, and those that start hosts of their own.
QUICK := $(SANDBOX) run -- sh -ec '$(DEPLOY); pytest -n 2 --dist loadfile tests/unit tests/redisctl; pytest tests/host'
# tests/lifecycle/conftest.py puts the longest modules first.
LIFECYCLE := $(SANDBOX) run --no-host -- pytest -n 4 --dist loadfile --no-loadscope-reorder tests/lifecycle

# A value from the command line as one word of the shell, with its $ and quotes.
quoted = '$(subst ','\'',$(value $(1)))'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(STAMP) ## install the project's Python packages into .venv
$(STAMP): requirements.txt
	@$(PYTHON) -m sandbox.venv
	@touch $@

.PHONY: deploy
deploy: $(STAMP) ## deploy Redis to a disposable host on this machine
	@$(SANDBOX) up
	$(BIN)/pyinfra -y inventory deploy.py
	@$(SANDBOX) howto

.PHONY: test
test: $(STAMP) ## deploy and run the quick tests; ARGS='-k backup' runs selected tests instead
	@$(if $(ARGS),$(SANDBOX) run -- sh -ec '$(DEPLOY); exec pytest "$$@"' pytest $(ARGS),$(QUICK))
	$(if $(ARGS),,@$(LIFECYCLE) -m core)

.PHONY: test-all
test-all: $(STAMP) ## run all tests but the smoke run
	@$(QUICK)
	@$(LIFECYCLE) tests/apps

.PHONY: drift
drift: $(STAMP) ## compare the disposable hosts, or those of INVENTORY=file, with their settings
	@$(BIN)/python -m redoubt.drift_report $(call quoted,INVENTORY) $(ARGS)

.PHONY: audit
audit: $(STAMP) ## write the security report of the disposable hosts, or of INVENTORY=file, to audit/
	$(BIN)/pytest tests/host -m security --inventory $(call quoted,INVENTORY) \
	  --junitxml=audit/audit.xml --audit-page=audit/audit.html $(ARGS)

.PHONY: smoke-vm
smoke-vm: $(STAMP) ## deploy to a virtual machine, reboot it, cut its power, and check it
	@$(SANDBOX) run --no-host -- pytest tests/smoke --exitfirst --durations=12 $(ARGS)

.PHONY: ssh
ssh: $(STAMP) ## open a root shell on the disposable host (CMD='a command' runs that, HOST=name chooses another host)
	@$(SANDBOX) ssh $(HOST) $(if $(value CMD),-- $(call quoted,CMD))

.PHONY: hosts
hosts: $(STAMP) ## list the disposable hosts
	@$(SANDBOX) list

.PHONY: lint
lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: settings
settings: $(STAMP) ## write the settings file and docs/settings.md from the model
	$(BIN)/python -m redoubt.settings

.PHONY: requirements
requirements: $(STAMP) ## lock the newest versions of requirements.in, and of the packages that only some tests install
	for name in requirements tests/lifecycle/sops tests/apps/node; do \
	  $(BIN)/uv pip compile --quiet --upgrade --no-config --no-cache --no-emit-index-url --no-emit-find-links \
	    --universal --python-version 3.11 --generate-hashes \
	    --custom-compile-command 'make requirements' --output-file $$name.txt $$name.in || exit; \
	done
	$(BIN)/python -m tests.apps.node

.PHONY: clean
clean: ## remove the disposable hosts, their images, Docker, .venv: everything that was made here
	@if [ -d .sandbox ]; then $(MAKE) --silent venv && $(SANDBOX) clean; fi
	@find . -name __pycache__ -prune -exec rm -rf {} +
	@rm -rf pyinfra-debug.log .venv audit .mypy_cache .pytest_cache .ruff_cache
