# Two commands on a fresh machine: `make demo` and `make test`. Both set up what is missing and say so.
# Three more than cores: many tests wait for processes and for time.
WORKERS = $(shell echo $$(($$(nproc) + 3)))
# Every command that a test or the demo starts would otherwise compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help set-up demo test test-all test-web pictures check bench test-compose clean

help:
	@echo "make demo          set up, start a whole market, buy from it, and stay up (ARGS=\"--once --json\" ends)"
	@echo "make test          set up, and run the tests"
	@echo "make test-all      all of them: every crash at every step, 1,000 orders (minutes)"
	@echo "make test-web      the pages in a real browser (Chromium, installed where it is missing)"
	@echo "make pictures      the pictures of the README, taken from the running product"
	@echo "make check         types and style"
	@echo "make bench         measure (ARGS=\"orders --json\", or delivery, coins, size)"
	@echo "make test-compose  build and try compose.yaml on a running Docker engine"
	@echo "make clean         remove .venv, .state and caches"

set-up:
	@scripts/set-up

demo: set-up
	@.venv/bin/veilmart demo $(ARGS)

# On a fresh clone each worker would compile all tests for itself, which takes five seconds each.
test: set-up
	@[ -d tests/__pycache__ ] || ls tests/test_*.py | xargs -n 64 -P 2 .venv/bin/python -m pytest --collect-only -q >/dev/null 2>&1 || true
	@.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: set-up
	@.venv/bin/python -m pytest -m "not compose and not web" $(ARGS)

test-web:
	@scripts/set-up web
	@.venv/bin/python -m pytest -m web tests/web $(ARGS)

pictures:
	@scripts/set-up web
	@VEILMART_PICTURES=docs/pictures .venv/bin/python -m pytest -m web tests/web/test_pictures.py $(ARGS)

check: set-up
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy

bench: set-up
	@.venv/bin/python -m bench $(ARGS)

test-compose: set-up
	@.venv/bin/python -m pytest -m compose tests/test_compose.py $(ARGS)

clean:
	rm -rf .venv .state .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
