# Two commands set everything up on a fresh machine: `make chat` and `make test`.
VENV := .venv
BIN := $(VENV)/bin
CHAT_ARGS ?=

.PHONY: chat test test-full coverage nightly check check-mac check-arm format wheel wheel-mac clean

chat: $(VENV)/.run
	$(BIN)/moe-mlx chat $(CHAT_ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(PYTEST_ARGS)

test-full: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Which lines of the runtime, the converter and the app the fast tests run; C++ and child processes are not counted.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

# Two to three hours; docs/promises.md says what each line holds.
nightly: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -rP $(PYTEST_ARGS)
	MOE_MLX_FETCH_STREAM=apart $(BIN)/python -m pytest -m "not slow" tests/native
	MOE_MLX_FUZZ=100000 $(BIN)/python -m pytest tests/fault/test_store_hostile.py
	$(BIN)/python -m tests.cross.check_arm || [ $$? = 3 ]
	$(BIN)/python -m tests.soak.exactness --cases 1000 --decode readback
	$(BIN)/python -m tests.soak.exactness --cases 1000 --decode native
	$(BIN)/python -m tests.soak.faults --minutes 60
	$(BIN)/python -m tests.soak.server --minutes 60

# Compiles and links for macOS what is native and checks it against MLX's macOS wheels; tests/cross says what of that is proof.
check-mac: $(VENV)/.dev
	$(BIN)/python -m tests.cross.check_mac
	$(BIN)/python -m pytest -m slow -rs tests/cross/test_abi.py

# Decode in the graph on emulated arm64 Linux; needs Debian's qemu-user-static and g++-aarch64-linux-gnu.
check-arm: $(VENV)/.dev
	$(BIN)/python -m tests.cross.check_arm

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel

# The wheel for macOS, its extensions compiled and linked here; needs headers of Python 3.11, 3.12 and 3.13.
wheel-mac: $(VENV)/.dev
	$(BIN)/python -m tests.cross.wheel_mac

$(VENV)/.run: pyproject.toml constraints.txt .ci/venv
	@echo "preparing $(VENV) ..." >&2
	@sh .ci/venv $(VENV) .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt .ci/venv
	@echo "preparing $(VENV) ..." >&2
	@sh .ci/venv $(VENV) ".[dev,plot,web]"
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
