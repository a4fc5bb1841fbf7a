# Python 3.11 or newer and make are enough: everything else comes into .venv, pinned and hashed.
# The tests need Node.js 20 and npm as well: they run the JavaScript clients of the providers.
# CI runs these same recipes (.ci/run).

VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
# -qq: one line per step is what a newcomer should see; pip's errors are still printed.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq install
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links
UV := uv==0.13.9
NPM_OPTIONS := --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved --loglevel=error
NPM_CLIENTS := tests/clients/sdks tests/clients/claude_code
SDKS := tests/clients/sdks/node_modules/.package-lock.json
CLAUDE_CODE := tests/clients/claude_code/node_modules/.package-lock.json
SERVERS := $(BIN)/python -m tests.postgresql >/dev/null 2>&1 && $(BIN)/python -m tests.redis >/dev/null 2>&1

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench torture train-router lock ddl translations clean
.NOTPARALLEL:  # two pips at work in one environment would break it
unexport PYTHONPATH PYTHONHOME  # packages of the caller must not leak into the environment

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: $(VENV)/installed-demo ## Show what tuppence does; DEMO_TRACE=file tells it what to import
	@$(BIN)/tuppence demo $${DEMO_TRACE:+--trace "$$DEMO_TRACE"}

test: $(VENV)/installed-test $(SDKS) ## Run all tests on SQLite and on PostgreSQL
	@$(SERVERS) || scripts/install_servers.sh
	@echo "Running the tests"
	@TMPDIR=$$(scripts/test_directory.sh) $(BIN)/pytest --numprocesses=2 --dist=loadfile

lint: $(VENV)/installed-test ## Check style, types, docstrings and the direction of imports
	@echo "Checking style"
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@echo "Checking types"
	@$(BIN)/mypy
	@echo "Checking the direction of imports"
	@$(BIN)/lint-imports
	@echo "Checking docstrings"
	@$(BIN)/interrogate --config pyproject.toml src compat tests

bench: $(VENV)/installed-test $(PEERS)/installed ## Measure speed, beside comparable packages
	@$(SERVERS) || scripts/install_servers.sh
	@$(BIN)/pytest tests/performance -m ""

torture: $(VENV)/installed-test $(SDKS) $(CLAUDE_CODE) ## Run the long tests that kill processes and servers
	@$(SERVERS) || scripts/install_servers.sh
	@TMPDIR=$$(scripts/test_directory.sh) $(BIN)/pytest -m torture

train-router: $(VENV)/installed-test ## Train the router that ships; DATA=directory has the outcomes
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tools/train_router.py "$${DATA:?give DATA=directory}"

lock: $(VENV)/created ## Renew requirements/*.txt from pyproject.toml and peers.in, and npm's pins
	@$(INSTALL) $(UV)
	@echo "Resolving"
	@$(LOCK) pyproject.toml --extra check --extra gateway --extra testing --group build --output-file requirements/demo.txt
	@$(LOCK) pyproject.toml --extra check --extra gateway --extra testing --group build --group test --group lint --group translate \
		--constraints requirements/demo.txt --output-file requirements/test.txt
	@$(LOCK) requirements/peers.in --output-file requirements/peers.txt
	@for directory in $(NPM_CLIENTS); do \
		(cd $$directory && npm update --package-lock-only $(NPM_OPTIONS)) || exit 1; done

ddl: $(VENV)/installed-test ## Write the SQL of a new ledger from the models
	@$(BIN)/python tools/write_ddl.py

translations: $(VENV)/installed-test ## Compile the translated texts
	@$(BIN)/python tools/compile_translations.py

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) $(PEERS) $(NPM_CLIENTS:=/node_modules) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Pins that changed start from an empty environment, so that a dropped package is really gone.
$(VENV)/created: requirements/demo.txt requirements/test.txt
	@python=$$(scripts/find_python.sh) && echo "Creating $(VENV) with $$python" && \
		"$$python" -m venv --clear $(VENV)
	@touch $@

# An editable install has no hash, hence two steps; the second one fetches nothing.
$(VENV)/installed-%: requirements/%.txt $(VENV)/created pyproject.toml compat/pyproject.toml
	@echo "Installing requirements/$*.txt (about half a minute)"
	@$(INSTALL) --require-hashes --requirement requirements/$*.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable . --editable ./compat
	@touch $@

# What budgets are measured beside; never in the environment of the project itself.
$(PEERS)/installed: requirements/peers.txt
	@python=$$(scripts/find_python.sh) && echo "Creating $(PEERS) with $$python" && \
		"$$python" -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --no-input -qq install \
		--require-hashes --requirement requirements/peers.txt
	@touch $@

# The JavaScript clients that the gateway is tested with; npm writes this file when all is there.
# Claude Code (390 MB) is for `make torture` only. No script of a package is run.
tests/clients/%/node_modules/.package-lock.json: tests/clients/%/package.json tests/clients/%/package-lock.json
	@command -v npm >/dev/null || { echo "Node.js 20 or newer and npm are needed for the tests with" \
		"JavaScript clients; on Debian and Ubuntu: apt-get install nodejs npm" >&2; exit 1; }
	@echo "Installing tests/clients/$*"
	@cd tests/clients/$* && npm ci $(NPM_OPTIONS) >/dev/null
	@touch $@
