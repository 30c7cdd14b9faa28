PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test bench check lock clean

run: $(VENV)/.run  ## start everything on the sample invoices; ANSWER=approve or reject answers by itself; PORT=4300
	@$(BIN)/standby up --by-make --demo $(if $(ANSWER),--answer $(ANSWER)) $(if $(PORT),--port $(PORT))

test:  ## lint, then every test, the type check among them
	@$(MAKE) --no-print-directory -j 2 $(VENV)/.run $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@# Compiled files are kept, whatever this shell says: hundreds of processes would compile the project again.
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist loadgroup --durations=25

bench: requirements-bench.lock $(VENV)/.run $(VENV)/.dev  ## install what the benchmarks compare with: DBOS and LangGraph
	@$(INSTALL) --require-hashes -r requirements-bench.lock

lock: $(VENV)/.run $(VENV)/.dev  ## pin every dependency again, with hashes and without index addresses
	$(BIN)/uv pip compile pyproject.toml --all-extras --group agents --group build --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev -c requirements.lock --universal --python-version 3.11 \
		$$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' requirements.lock) \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements-dev.lock
	$(BIN)/uv pip compile --group bench -c requirements.lock -c requirements-dev.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements-bench.lock

clean:
	rm -rf $(VENV) .standby

# Compiled afterwards, on all processors: pip does it on one.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile

$(BIN)/python:
	@echo "Installing into $(VENV); the first time this takes a minute or more."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-build-isolation -e .
	@-$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib
	@touch $@

# What is not in the other lock, so that both can be installed at the same time.
$(VENV)/.dev: requirements-dev.lock | $(BIN)/python
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@
