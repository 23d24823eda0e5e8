# The front door. `make help` says what is behind it.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
HOST ?= redoubt-1
INVENTORY ?= inventory
BIN := .venv/bin
SANDBOX := $(BIN)/python -m sandbox
STAMP := .venv/.complete

# Where this is set, each of the thousand commands that the tests run compiles five hundred modules anew. `make clean`
# removes what it keeps Python from writing.
unexport PYTHONDONTWRITEBYTECODE

# A value given on the command line, as one word of the shell: $ and quotes in it stay as they are.
quoted = '$(subst ','\'',$(value $(1)))'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(STAMP) ## install what the project itself needs, into .venv
$(STAMP): requirements.txt
	@$(PYTHON) -m sandbox.venv
	@touch $@

.PHONY: deploy
deploy: $(STAMP) ## deploy Redis to a disposable host on this machine
	@$(SANDBOX) up
	$(BIN)/pyinfra -y inventory deploy.py
	@$(SANDBOX) howto

.PHONY: test
test: $(STAMP) ## deploy and run all tests; ARGS='-k backup' goes to pytest
	@$(SANDBOX) run -- sh -ec 'pyinfra -y inventory deploy.py; exec pytest "$$@"' pytest $(or $(ARGS),tests/unit tests/redisctl tests/host)
	$(if $(ARGS),,@$(SANDBOX) run --no-host -- pytest tests/lifecycle -n 3 --dist loadfile)

.PHONY: drift
drift: $(STAMP) ## whether the disposable hosts, or INVENTORY=file, still are what the settings say
	@$(BIN)/python -m redoubt.drift_report $(call quoted,INVENTORY) $(ARGS)

.PHONY: audit
audit: $(STAMP) ## the security report of the disposable hosts, or INVENTORY=file, into audit/
	$(BIN)/pytest tests/host -m security --inventory $(call quoted,INVENTORY) \
	  --junitxml=audit/audit.xml --audit-page=audit/audit.html $(ARGS)

.PHONY: smoke-vm
smoke-vm: $(STAMP) ## deploy to a virtual machine, reboot it, cut its power; verify it
	@$(SANDBOX) run --no-host -- pytest tests/smoke --exitfirst --durations=12 $(ARGS)

.PHONY: ssh
ssh: $(STAMP) ## a root shell on the disposable host, or CMD='a command'; HOST=name for another
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
requirements: $(STAMP) ## lock requirements.in into requirements.txt, at the newest versions
	$(BIN)/uv pip compile --quiet --upgrade --no-config --no-cache --no-emit-index-url --no-emit-find-links \
	  --universal --python-version 3.11 --generate-hashes \
	  --custom-compile-command 'make requirements' --output-file requirements.txt requirements.in

.PHONY: clean
clean: ## remove disposable hosts, images, engine and .venv: everything that was made here
	@if [ -d .sandbox ]; then $(MAKE) --silent venv && $(SANDBOX) clean; fi
	@find . -name __pycache__ -prune -exec rm -rf {} +
	@rm -rf .venv audit .mypy_cache .pytest_cache .ruff_cache
