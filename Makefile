# One command each. `make` alone lists them.
# The oldest Python that is supported and installed; another one, in an environment of its own:
# `make test PYTHON=python3.13 VENV=.venv-3.13`.
PYTHON ?= $(or $(firstword $(foreach python,python3.11 python3.12 python3.13,$(shell command -v $(python)))),python3.11)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Everything that a person's runs write: lake, database, Dagster's own history.
WRM_DATA_DIR ?= data
DAGSTER_HOME ?= $(abspath $(WRM_DATA_DIR))/dagster_home
FEED ?= simulated
PORT ?= 3000
# deploy/run-local is written for Linux.
RELOAD ?= $(if $(filter Linux,$(shell uname -s)),,yes)
# Dagster works in its own folder, so the checkout's .env is named.
DOTENV := $(if $(wildcard .env),WRM_DOTENV=$(CURDIR)/.env)
export DAGSTER_DISABLE_TELEMETRY := 1
# Dagster marks some of its own classes as beta; nobody who runs this can act on it.
export PYTHONWARNINGS ?= ignore:Function `,ignore:Parameter `,ignore:Handling yaml-defined logging

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test faults coverage check check-workflows audit sbom release-files bench docs docs-tables docs-images lock deploy-setup deploy-check deploy-test container-test clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with everything at locked versions

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Install Python 3.11, 3.12 or 3.13 (Debian, Ubuntu: apt-get install python3 python3-venv), or set PYTHON."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) lacks its venv module. Debian, Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## a simulated day from the feed to the map (FEED=live: a snapshot of the real feed)
	WRM_DATA_DIR=$(WRM_DATA_DIR)/demo DAGSTER_HOME=$(abspath $(WRM_DATA_DIR))/demo/dagster_home \
	  $(BIN)/python -m wrm_pipeline.cli.demo --feed $(FEED)

dev: setup ## Dagster's UI, schedules and sensors on http://127.0.0.1:3000 (RELOAD=yes: the UI can reload changed code)
	mkdir -p $(DAGSTER_HOME) && cp dagster.yaml $(DAGSTER_HOME)/dagster.yaml
	cd $(DAGSTER_HOME) && WRM_DATA_DIR=$(abspath $(WRM_DATA_DIR)) DAGSTER_HOME=$(DAGSTER_HOME) $(DOTENV) \
	  $(if $(RELOAD),$(abspath $(BIN))/dagster dev --workspace $(CURDIR)/workspace.yaml --host 127.0.0.1 --port $(PORT),$(CURDIR)/deploy/run-local $(abspath $(BIN))/python $(PORT))

CONTRACT_VENV := .venv-contract
CONTRACT_LOCK := wrm_pipeline_tests/contract/requirements.lock

# Integration tests wait for servers more than they compute: on two cores, three at once take a quarter less than two.
test: setup $(CONTRACT_VENV)/.ready ## all tests (real servers are started where they are needed)
	@failed=0; \
	$(BIN)/pytest wrm_pipeline_tests/unit --numprocesses auto --dist loadfile || failed=1; \
	$(BIN)/pytest wrm_pipeline_tests/integration wrm_pipeline_tests/faults --numprocesses 3 --dist loadfile --no-loadscope-reorder || failed=1; \
	exit $$failed

$(CONTRACT_VENV)/.ready: $(CONTRACT_LOCK)
	$(PYTHON) -m venv $(CONTRACT_VENV)
	$(CONTRACT_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $(CONTRACT_LOCK)
	@touch $@

faults: setup ## the fault matrix, with its table
	$(BIN)/pytest wrm_pipeline_tests/faults -q

COVERED_PERCENT := 90

coverage: setup ## which lines of the product the unit tests run; below 90 % it fails (build/coverage.xml)
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest wrm_pipeline_tests/unit --numprocesses auto --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage xml --quiet
	$(BIN)/coverage report --skip-covered > build/coverage.txt
	@# As https://shields.io/badges/endpoint-badge reads it.
	total=$$($(BIN)/coverage report --format=total) && [ $$total -ge $(COVERED_PERCENT) ] && color=brightgreen || color=red; \
	  printf '{"schemaVersion": 1, "label": "coverage", "message": "%s%%", "color": "%s"}\n' $$total $$color > build/coverage-badge.json
	$(BIN)/coverage report --format=total --precision=2 --fail-under=$(COVERED_PERCENT)

SECRETS_IN := git ls-files | grep -vE '\.(lock|png|svg)$$|/leaflet|/uplot|\.secrets\.baseline'

check: setup ## what guards main besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# A copy, since the hook renews the baseline where lines have moved (status 3), and then wants it staged.
	cp .secrets.baseline $(VENV)/secrets.baseline
	$(BIN)/detect-secrets-hook --no-verify --baseline $(VENV)/secrets.baseline $$($(SECRETS_IN)) || [ $$? -eq 3 ]
	cd $$(mktemp -d) && WRM_DATA_DIR=. $(abspath $(BIN))/dagster definitions validate -m wrm_pipeline.definitions

bench: setup ## measure; the figures are ratios within the run
	$(BIN)/python -m wrm_pipeline_tests.bench --write

WORKFLOWS_VENV := .venv-workflows

check-workflows: $(WORKFLOWS_VENV)/.ready ## lint .github: actionlint (with shellcheck where it is installed) and zizmor
	$(WORKFLOWS_VENV)/bin/actionlint .github/workflows/*.yml
	$(WORKFLOWS_VENV)/bin/zizmor --offline --quiet --persona auditor .github

$(WORKFLOWS_VENV)/.ready: .github/requirements.lock
	$(PYTHON) -m venv $(WORKFLOWS_VENV)
	$(WORKFLOWS_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .github/requirements.lock
	@touch $@

AUDIT_VENV := .venv-audit
LOCKS := requirements.lock deploy/runtime.lock deploy/requirements.lock docs/requirements.lock .github/requirements.lock .github/audit.lock wrm_pipeline_tests/contract/requirements.lock

audit: $(AUDIT_VENV)/.ready ## known holes in what the locks name (asks PyPI; what it cannot look up fails, too)
	$(AUDIT_VENV)/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off $(addprefix -r ,$(LOCKS))

sbom: $(AUDIT_VENV)/.ready ## what a server runs with, as CycloneDX: build/sbom.json
	mkdir -p build
	PYTHONWARNINGS=ignore $(AUDIT_VENV)/bin/cyclonedx-py requirements deploy/runtime.lock --pyproject pyproject.toml \
	  --output-reproducible --validate -o build/sbom.json

release-files: setup sbom ## what a published release consists of: build/release (needs Docker or podman)
	deploy/release-files

$(AUDIT_VENV)/.ready: .github/audit.lock
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .github/audit.lock
	@touch $@

DOCS_VENV := .venv-docs

docs: $(DOCS_VENV)/.ready ## the documentation site, in build/docs; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet

$(DOCS_VENV)/.ready: docs/requirements.lock
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.lock
	@touch $@

docs-tables: setup ## write docs/tables.md from the registry of tables
	$(BIN)/python -m wrm_pipeline.analytics.tables_page > docs/tables.md

docs-images: ## draw the architecture picture again from its text (needs Graphviz)
	dot -Tsvg docs/images/architecture.dot -o docs/images/architecture.svg

DEPLOY_VENV := .venv-deploy
DEPLOY_BIN := $(abspath $(DEPLOY_VENV))/bin

deploy-setup: $(DEPLOY_VENV)/.ready ## create .venv-deploy with Ansible and its linters

$(DEPLOY_VENV)/.ready: deploy/requirements.lock
	$(PYTHON) -m venv $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements.lock
	@touch $@

deploy-check: deploy-setup ## lint playbooks and roles, and verify the units where systemd is
	$(DEPLOY_BIN)/yamllint --strict .
	cd deploy/ansible && PATH=$(DEPLOY_BIN):$$PATH ansible-lint --offline --profile production --strict -q
	cd deploy/ansible && PATH=$(DEPLOY_BIN):$$PATH ansible-playbook -i inventory/example.yml --syntax-check site.yml rollback.yml restore.yml vault.yml
	PATH=$(DEPLOY_BIN):$$PATH deploy/test/units

DEPLOY_SUITE ?= bookworm
deploy-test: setup deploy-setup ## the deployment tried for real, in a container (needs root and systemd-nspawn; DEPLOY_SUITE=trixie)
	DEPLOY_SUITE=$(DEPLOY_SUITE) $(BIN)/python -m deploy.test.acceptance

container-test: setup deploy-setup ## the containers tried for real, with podman (needs root, podman and debootstrap)
	$(BIN)/python -m deploy.test.containers

lock: ## renew the locks (needs uv)
	uv pip compile pyproject.toml --extra dev --extra celery --extra kubernetes --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-strip-extras --allow-unsafe --quiet -o requirements.lock
	uv pip compile pyproject.toml -c requirements.lock --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-strip-extras --allow-unsafe --quiet -o deploy/runtime.lock
	uv pip compile deploy/requirements.in --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --quiet -o deploy/requirements.lock
	uv pip compile docs/requirements.in --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --quiet -o docs/requirements.lock
	uv pip compile wrm_pipeline_tests/contract/requirements.in --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --quiet -o $(CONTRACT_LOCK)
	uv pip compile .github/requirements.in --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --quiet -o .github/requirements.lock
	uv pip compile .github/audit.in --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --quiet -o .github/audit.lock

clean: ## remove the virtual environment and caches; data stays
	rm -rf $(VENV) $(WORKFLOWS_VENV) $(AUDIT_VENV) $(DOCS_VENV) $(CONTRACT_VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
