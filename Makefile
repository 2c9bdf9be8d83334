# What a newcomer would type. Everything is installed into .venv; nothing outside the checkout is touched.
PYTHON ?= $(shell sh scripts/find-python)
PIP = .venv/bin/python -m pip --disable-pip-version-check -q
ARGS ?=

.PHONY: help audit test vm-test lint types docs wheel wheel-test bench bench-fleet bench-tune clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

audit: .venv/installed ## judge this host (ARGS='--only gpu' passes options)
	@.venv/bin/hostcheck audit $(ARGS); case $$? in 0|1|3) ;; *) exit 1;; esac

test: .venv/dev ## run the tests
	@.venv/bin/python -P -m pytest -q -n 2 $(ARGS)

vm-test: .venv/dev ## boot a guest with several NUMA nodes, and run the tests that need one (as root)
	@guest=$$(PYTHON=.venv/bin/python sh scripts/make-vm) && HOSTCHECK_VM=$$guest .venv/bin/python -P -m pytest -q tests/vm $(ARGS)

lint: .venv/dev ## ruff, mypy and shellcheck
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/shellcheck scripts/* .ci/run

docs: .venv/dev ## regenerate the reference pages, the JSON Schema and the list of proven checks
	@.venv/bin/python tools/generate.py

wheel: .venv/dev ## build dist/*.whl
	@.venv/bin/python -m build --wheel --outdir dist . >/dev/null && ls dist/*.whl

wheel-test: ## run the tests against the installed wheel on each Python that is here
	@sh scripts/test-wheel

bench: .venv/installed ## print what hostcheck costs on this host
	@.venv/bin/python benchmarks/audit.py

bench-fleet: .venv/dev ## print what a fleet costs, beside clush and ansible (as root)
	@.venv/bin/python benchmarks/fleet.py

bench-tune: .venv/installed ## print what 30 changes cost, and the journal's fsync (as root)
	@.venv/bin/python benchmarks/tune.py

clean: ## remove what make made
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo 'hostcheck needs Python 3.11 or newer; none was found (PYTHON=... names one)' >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo 'the module venv is missing: install python3-venv (Debian, Ubuntu) or python3 (RHEL, Fedora)' >&2; exit 1; }

.venv/installed: pyproject.toml | .venv/bin/python
	@$(PIP) install -e .
	@touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	@$(PIP) install -e '.[dev]'
	@touch $@ .venv/installed
