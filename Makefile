# `make help` lists what there is. Everything runs from .venv, which scripts/setup makes from hashed lock files.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
INVENTORY ?= inventories/sandbox

.PHONY: help up test down deploy hosts setup ssh report lint unit contract integration molecule end-to-end bench lock docs

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: hosts deploy ## everything set up and deployed on five sandbox hosts; again: a no-op deploy

test: ## lint, unit, contract, molecule and end-to-end tests
	scripts/run_tests

deploy: setup ## ansible-playbook deploy.yml on the sandbox (ARGS="--tags verify", ARGS="-e run_ref=v0.2.0")
	ansible-playbook deploy.yml -i $(INVENTORY) $(ARGS)

hosts: setup ## the five sandbox hosts, and what stands in for the outside world
	scripts/docker_engine
	scripts/make_image
	scripts/make_example_repositories
	ansible-playbook playbooks/sandbox.yml -i inventories/sandbox

setup: ## the tool chain in .venv
	scripts/setup

down: setup ## take the sandbox away
	ansible-playbook playbooks/sandbox.yml -i inventories/sandbox -e sandbox_state=absent

ssh: ## a shell on a host: make ssh HOST=app1
	@test -n "$(HOST)" || { echo "make ssh HOST=gateway1|app1|app2|data|monitor"; exit 2; }
	@ssh -i .greenroom/sandbox/id_ed25519 -o UserKnownHostsFile=.greenroom/sandbox/known_hosts -o StrictHostKeyChecking=yes \
	  deploy@$$(ansible-inventory -i inventories/sandbox --host $(HOST) | python3 -c 'import json,sys; print(json.load(sys.stdin)["ansible_host"])')

report: ## where the newest report lies, and its verdict
	scripts/report

lint: setup ## ruff, ansible-lint (production profile), shell syntax
	scripts/run_tests lint

unit: setup ## tests of the library, without servers
	scripts/run_tests unit

contract: setup ## tests of the promises between the parts
	scripts/run_tests contract

integration: setup ## modules against real servers
	scripts/run_tests integration

molecule: setup ## roles on systemd containers (SCENARIOS=data for one)
	scripts/run_tests molecule

end-to-end: setup ## fresh deploy, no-op, upgrade under load, bad input
	scripts/run_tests end_to_end

bench: setup ## the figures of the README, with medians and ratios
	scripts/run_bench

lock: ## compile requirements/*.in into hashed lock files
	for name in control bootstrap tools; do \
	  uv pip compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --python-version 3.11 --universal \
	    $(UPGRADE) requirements/$$name.in -o requirements/$$name.txt; done

docs: ## reference documentation from schemas and argument specs
	scripts/make_docs
