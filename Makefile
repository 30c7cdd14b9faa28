PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test bench check lock clean

run: $(VENV)/.run  ## start everything on the sample invoices; ANSWER=approve or reject answers by itself; PORT=4300
	@$(BIN)/standby up --demo $(if $(ANSWER),--answer $(ANSWER)) $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev  ## lint, then every test, the type check among them
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@# Compiled files are kept, whatever this shell says: hundreds of processes would compile the project again.
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist loadgroup

bench: requirements-bench.lock $(VENV)/.dev  ## install what the benchmarks compare with: DBOS and LangGraph
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-bench.lock

lock: $(VENV)/.dev  ## pin every dependency again, with hashes and without index addresses
	$(BIN)/uv pip compile pyproject.toml --all-extras --group agents --group build --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev -c requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements-dev.lock
	$(BIN)/uv pip compile --group bench -c requirements-dev.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements-bench.lock

clean:
	rm -rf $(VENV) .standby

$(VENV)/.run: requirements.lock pyproject.toml
	@echo "Installing into $(VENV); the first time this takes a minute or more."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	@touch $@
