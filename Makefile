# Everything a newcomer needs: `make demo`, `make test`.  Both set up their own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYX := $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

.PHONY: demo test bench backlog torture chaos sim interrupts handovers observed powercut mutants coverage lint build clean coverage-table hostile pythons twins stalls first-half other-half
KILLS ?= 1000
SECONDS ?= 600
TURNS ?= 200
LIVES ?= 20
SEED ?= 1
JOBS ?= 2
SEEDS ?= 100000
.DEFAULT_GOAL := test

$(VENV)/.packages: requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	touch $@

$(VENV)/.built: $(VENV)/.packages pyproject.toml setup.py $(PYX)
	SPOOLQ_REQUIRE_COMPILED=1 $(BIN)/pip install --quiet --disable-pip-version-check \
	    --no-build-isolation --no-deps --editable .
	touch $@

build: $(VENV)/.built

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The whole suite in two halves, a core for each.  The first has what listens on ports: a port that one test has left is
# soon another's, and two halves of that kind would meet in them.  The other has what needs hardly any; then codec and
# spool once more on their plain twins; then 20 wrong versions of the code, taken at random by the commit, each of which a
# test must catch (--trust: all tests pass, or the run fails).  What it says stands together when it has ended.
HARDLY_ANY_PORTS := tests/columns tests/qwp tests/spool

test: lint
	@$(MAKE) --no-print-directory --jobs=2 first-half other-half

first-half:
	$(BIN)/python -m pytest $(HARDLY_ANY_PORTS:%=--ignore=%)

other-half:
	@log=$$(mktemp); exec 3>&1 >$$log 2>&1; trap 'cat $$log >&3; rm $$log' EXIT; set -e; \
	$(BIN)/python -m pytest $(HARDLY_ANY_PORTS); \
	echo "on the plain twins:"; \
	SPOOLQ_IMPLEMENTATION=plain $(BIN)/python -m pytest tests/test_values.py $(HARDLY_ANY_PORTS); \
	$(BIN)/python -m tests.mutants --sample 20 --trust

# What decode(encode(x)) == as_stored(x) was proven for: column type x null pattern x rows.
coverage-table: build
	$(BIN)/python -m pytest tests/qwp/test_roundtrip.py -k every_type

# Ten thousand made sequences of calls on a row buffer, both bodies: a minute.
twins: build
	SPOOLQ_TWINS_CASES=10000 $(BIN)/python -m pytest tests/columns/test_twins.py

# A writing process is killed by SIGKILL, KILLS times; what its flushes returned for must arrive.
torture: build
	$(BIN)/python -m tests.crash --kills $(KILLS) --seed $(SEED)

# A sender process and two server processes, killed and hindered for SECONDS; every row must land, in order.
chaos: build
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED)

# Ctrl-C at every place of every call, on a slot too: about a minute.
interrupts: build
	INTERRUPT_STEP=1 $(BIN)/python -m pytest -q tests/sender/test_interrupt_anywhere.py

# The I/O loop and the machine in a simulated world; a failing seed is replayed by the command it prints.
sim: build
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

# 200 random hand-overs of one slot between the official client and ours, a process each: two to three minutes.
# A failure names its seed; another one: make handovers SEED=...
handovers: build
	$(BIN)/python -m tests.interop.handovers --turns $(TURNS) --seed $(SEED)

# Clients that mean harm against the server as a process, 100,000 connections among them, and the memory they cost it.
hostile: build
	$(BIN)/python -m tests.server.hostile

# Lines of src/spoolq that the suite runs, and the new ones that it does not: half an hour or more.  CI does not wait for it.
coverage: build
	$(BIN)/python -m tests.lines

# Every wrong version of the registry, tests/mutants/*.toml, with the test that must catch it.
mutants: build
	$(BIN)/python -m tests.mutants --jobs $(JOBS)

# The official client under what takes it longer than a test may: tests/server/observed_slow.py, two minutes.
observed: build
	$(BIN)/python -m tests.server.observed_slow

# The power goes at every step of LIVES lives of a slot in each durability mode, with any subset of the unsynced lost.
# Some seconds a life; a failure names mode and seed; another one: make powercut SEED=...
powercut: build
	$(BIN)/python -m tests.spool.power_cut --lives $(LIVES) --seed $(SEED)

# The suite while one kind of thread at a time is kept from the processor, by SEED: finds tests that need a quick machine.
STALLED ?= tests/sender tests/runtime tests/link tests/server
stalls: build
	STALLS_SEED=$(SEED) $(BIN)/python -m pytest -p tests.stalls $(STALLED)

# The whole suite and the plain twins under each Python that pyproject.toml declares, a virtual environment each; all of
# them must be on the machine, python3.12 on the PATH or pyenv's.  Half an hour and 1 GB of disk a version.
pythons: build
	$(BIN)/python -m tests.pythons

demo: build
	$(BIN)/spoolq demo

bench: build
	$(BIN)/python -m bench

# What a backlog of 10 GiB costs beside one of 10 MiB; needs that much disk.
backlog: build
	$(BIN)/python -m bench.backlog

clean:
	rm -rf build $(VENV) .venv-3.* src/*.egg-info
	find src -name '*.so' -delete -o -name '*.c' -delete
