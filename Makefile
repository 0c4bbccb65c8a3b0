# The first command on a fresh Debian machine is any of these: each prepares what it needs.

.DEFAULT_GOAL := help
.PHONY: help setup setup-runtime setup-test setup-fuzz demo test lint prove mutants fuzz bench golden lock clean
bin := .venv/bin
python_sources := vdisk dumpwriter tests setup.py

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: setup-runtime ## prepare the machine; leaves the command at .venv/bin/ghostdump

setup-runtime: ## what the command needs (the same as setup)
	@scripts/setup.sh runtime

setup-test: ## what the tests need too: debuggers, dump readers, linters
	@scripts/setup.sh test

setup-fuzz: ## what fuzzing needs too
	@scripts/setup.sh fuzz

demo: ## crash a machine on a new disk and read the dump
	@scripts/setup.sh demo
	@scripts/demo.sh

lint: setup-test ## ruff and mypy
	$(bin)/ruff check $(python_sources)
	$(bin)/ruff format --check $(python_sources)
	$(bin)/mypy

test: lint ## lint, then all tests but the slow ones
	$(bin)/pytest --numprocesses auto --dist worksteal

prove: setup-test ## every slow proof: the laboratory's worlds, every planted fault, kill -9 at hundreds of moments
	$(bin)/pytest -m slow -rP -o faulthandler_timeout=3600 --numprocesses auto --dist worksteal

mutants: setup-test ## plant every fault of the list in the product, and write docs/planted-faults.md
	$(bin)/ghostdump lab mutate --jobs $$(nproc) --markdown > docs/planted-faults.md

fuzz_runs := 20000
fuzz: setup-fuzz ## feed hostile dump files to every reader (fuzz_runs=N inputs for each format)
	nice -n 19 $(bin)/python -m tests.fuzz --runs $(fuzz_runs)

bench: setup-test ## conversion beside makedumpfile, a dump beside plain writes: ratios of this run
	$(bin)/python scripts/bench.py

golden: setup-test ## write the golden files in images/golden anew, and check them against their recipes
	$(bin)/python -m tests.builders.golden

lock: ## pin the newest allowed Python packages in requirements/
	@scripts/lock.sh

clean: ## remove the environment and all that was built; touches no mount and no image
	rm -rf --one-file-system .venv .fuzz build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find vdisk dumpwriter tests -xdev \( -name '*.so' -o -name '*.o' -o -name __pycache__ -o -name '_libext2fs.c' \) -prune -exec rm -rf {} +
