# Everything goes through uv, which deploy/uv.sh finds or installs; `uv run` builds the environment and the contracts first.
RUN = uv="$$(sh deploy/uv.sh)" && exec "$$uv"

.DEFAULT_GOAL := help
.PHONY: help up down status test lint format wheel reset doctor

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## Start the whole cluster and print how to use it; Ctrl-C stops it (ARGS="--detach" leaves it running)
	@$(RUN) run chirp up $(ARGS)

down: ## Stop a cluster that was left running
	@$(RUN) run chirp down $(ARGS)

status: ## Ask every process for its health
	@$(RUN) run chirp status $(ARGS)

test: lint ## Run lint, then all tests on real servers that they start themselves (ARGS="unit", ARGS="-- -k name")
	@$(RUN) run chirp test $(ARGS)

lint: ## Run ruff, the type checker and buf
	@$(RUN) run chirp lint $(ARGS)

format: ## Format Python and proto files
	@uv="$$(sh deploy/uv.sh)" && "$$uv" run ruff format . && "$$uv" run ruff check --fix . && "$$uv" run buf format -w proto

wheel: ## Build dist/chirp_contracts-*.whl: the typed stubs that callers install
	@$(RUN) build --wheel --package chirp-contracts --out-dir dist

reset: ## Delete all data of the embedded servers
	@$(RUN) run chirp reset $(ARGS)

doctor: ## Check whether this machine can run the cluster
	@$(RUN) run chirp doctor $(ARGS)
