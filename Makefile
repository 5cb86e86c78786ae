# Orlop. `make` lists the targets; the logic is in scripts.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export ORLOP_HOME ?= $(CURDIR)/.orlop
# An older Go fetches the toolchain that go.work names.
export GOTOOLCHAIN ?= auto

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install what Orlop needs from Debian (QEMU, nftables, ...)
	deploy/setup/setup.sh

.PHONY: build
build: ## Build orlop, orlopd, the services and the local Kubernetes API into bin/
	deploy/local/build.sh

.PHONY: demo
demo: setup build ## Boot a VM from nothing: image, disk, machine, address
	deploy/local/demo.sh

.PHONY: guest-micro
guest-micro: setup ## Build the small guest image that the demo boots
	deploy/guest/build-micro.sh

.PHONY: guest-debian
guest-debian: setup ## Build the Debian guest image (cloud-init, sshd, nginx, agent)
	deploy/guest/build-debian.sh

.PHONY: generate
generate: ## Generate everything under gen/ from proto/
	tools/build.sh
	tools/generate.sh

.PHONY: verify
verify: ## Prove that generated code, modules and formatting are current
	tools/build.sh
	tools/verify.sh

.PHONY: lint
lint: ## Run the linters
	tools/build.sh lint
	tools/lint.sh

.PHONY: test
test: setup build guest-micro ## Run all tests: unit, Kubernetes API, guests
	tools/build.sh
	tools/test.sh all

.PHONY: test-fast
test-fast: ## Run the tests that need no guest and no Kubernetes
	tools/test.sh fast

.PHONY: soak
soak: setup build guest-micro ## Run the long tests
	tools/test.sh soak

.PHONY: bench
bench: setup build guest-micro ## Measure, side by side with what does the same elsewhere
	tools/bench.sh

.PHONY: clean
clean: ## Remove what was built (not the state in $ORLOP_HOME)
	rm -rf bin
