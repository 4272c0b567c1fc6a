# A newcomer's two commands are `make demo` and `make test`; each sets up what it needs first.
# Needs Python 3.11+, Node 20+ and make. PYTHON=python3.12 names another interpreter.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEVCHAIN := deploy/devchain
IPFS := deploy/ipfs
DEMO_OUT := demo-out

# Several small models train side by side: one thread each, and no thread may spin while it waits.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive
# Everything is on this machine; nothing asks a model hub or tells anyone that it runs.
export HF_HUB_OFFLINE := 1
export FLWR_TELEMETRY_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

INSTALLED := $(VENV)/.installed
PACKAGES := $(DEVCHAIN)/node_modules/.installed
NODE := $(IPFS)/node_modules/.installed
CONTRACTS := $(DEVCHAIN)/build/.compiled

.PHONY: help setup demo test test-fast check clean bench-train bench-merge bench-chain bench-web bench-quality

help:
	@echo "make demo             run a whole DAO on this machine; ONCE=1 ends it when the story is told"
	@echo "make test             all checks and tests"
	@echo "make test-fast        the tests that need no server and no training, under a minute"
	@echo "make setup            only install: Python packages into $(VENV), npm packages of the dev chain and of an IPFS node"
	@echo "make bench-train      time a training step against the least that any engine must do; some minutes"
	@echo "make bench-merge      time merges of 10, 100 and 1000 members and their errors beside other ways; half an hour, 8 GB"
	@echo "make bench-chain      time who holds 10,000 tokens, beside web3.py and Multicall3; a minute"
	@echo "make bench-web        load the web server with 500 listeners, 50 sign-ins a second and readers at once; two minutes"
	@echo "make bench-quality    measure what a collective is worth beside other ways to train one; hours, RESUME=1 goes on"
	@echo "make clean            remove everything that was made here"

setup: $(INSTALLED) $(PACKAGES) $(CONTRACTS) $(NODE)

demo: $(INSTALLED) $(PACKAGES) $(CONTRACTS)
	@$(BIN)/python -m deploy.demo --out $(DEMO_OUT) $(if $(filter-out 0,$(ONCE)),--once)

# $(call part,NAME,COMMAND): a part that fails says which one it was.
part = @echo "== $(1)"; $(2) || { echo "make $@: $(1) FAILED" >&2; exit 1; }

check: setup
	$(call part,ruff check,$(BIN)/ruff check .)
	$(call part,ruff format,$(BIN)/ruff format --check .)
	$(call part,mypy,$(BIN)/mypy)
	$(call part,import-linter,$(BIN)/lint-imports)

# Three at once on two cores: a quarter of the time tests wait for servers that they started. The longest stories first,
# so that none of them is still told when all others have ended.
STORIES := tests/e2e tests/chaos tests/contract tests/property tests/unit
test: check
	$(call part,pytest,$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(STORIES))

test-fast: setup
	$(call part,pytest without the slow tests,$(BIN)/pytest -m "not slow")

bench-train: setup
	@$(BIN)/python -m bench.train

bench-merge: setup
	@$(BIN)/python -m bench.merge

bench-chain: setup
	@$(BIN)/python -m bench.chain

bench-web: setup
	@$(BIN)/python -m bench.web

# RESUME=1 goes on where a run was cut.
bench-quality: setup
	@$(BIN)/python -m bench.quality --docs docs $(if $(filter-out 0,$(RESUME)),--resume)

clean:
	rm -rf $(VENV) $(DEVCHAIN)/node_modules $(DEVCHAIN)/build $(IPFS)/node_modules $(DEMO_OUT) build ./*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Coterie needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== Python packages, into $(VENV) (some minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[client,coordinator,samples,dp,dev]'
	@touch $@

$(PACKAGES): $(DEVCHAIN)/package.json $(DEVCHAIN)/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' \
		|| { echo "The dev chain needs Node 20 or newer." >&2; exit 1; }
	@echo "== npm packages of the dev chain"
	@cd $(DEVCHAIN) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(NODE): $(IPFS)/package.json $(IPFS)/package-lock.json
	@echo "== npm packages of an IPFS node, for the tests"
	@cd $(IPFS) && npm ci --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(CONTRACTS): $(PACKAGES) $(wildcard $(DEVCHAIN)/contracts/*.sol) $(DEVCHAIN)/compile.mjs
	@echo "== contracts of the dev chain"
	@cd $(DEVCHAIN) && node compile.mjs
	@touch $@
