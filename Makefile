# The commands of a developer. Each target creates the environment that it needs (.venv) on first use.
# PYTHON=/path/to/python3.12 chooses the interpreter. ARGS=... goes to the tool that a target runs.

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
BENCH_VENV := .venv-bench
ALL_VENV := .venv-all
SOURCES := airflow_stepop tests benchmarks dags_examples docs/snippets scripts
ARGS ?=
# The test files that ARGS names. If there are any, only these are run
NAMED = $(strip $(wildcard $(foreach word,$(filter tests/%,$(ARGS)),$(firstword $(subst ::, ,$(word))))))

# The phases of `make test`. Each phase is one call of pytest. PHASES=unit runs one phase only
PHASES ?= unit deployed crashes faults
# The tests of these folders run one after the other
ALONE := tests/airflow_deployed tests/chaos/crashes tests/chaos/faults
# In the order of the folders: a file with few tests may take longest, and tests/airflow_in_process has those
SPREAD := -n 3 --dist loadfile --no-loadscope-reorder
# All tests of a folder share one Airflow. If it is broken, each test would wait for minutes before it fails
TOGETHER := --maxfail 6
PHASE_unit := $(SPREAD) $(addprefix --ignore=,$(ALONE))
PHASE_deployed := $(TOGETHER) tests/airflow_deployed
PHASE_crashes := $(TOGETHER) tests/chaos/crashes
PHASE_faults := $(TOGETHER) tests/chaos/faults
# JOURNAL=file: append the result of each test, and the exit code of each pytest, to this file (tests/support/journal.py)
JOURNAL ?=
JOURNALLED = $(if $(JOURNAL),--journal=$(JOURNAL))
# $(call NOTE,TEXT) appends a line to the journal
NOTE = $(if $(JOURNAL),echo "$(1)" >> "$(JOURNAL)",:)
# $(call RUN,PHASE) runs a phase. A phase does not fail if ARGS selects none of its tests (exit code 5).
RUN = echo "==> pytest: the phase $(1)"; code=0; \
	$(BIN)/python -m pytest $(PHASE_$(1)) $(JOURNALLED) $(ARGS) || code=$$?; \
	$(call NOTE,{\"exit\": $$code}); \
	case $$code in 0$(if $(ARGS),|5)) ;; *) failed="$$failed $(1)" ;; esac;

export PYTHON

.NOTPARALLEL:
.PHONY: help demo airflow test test-long under-load lint types docs bench bench-short fuzz fuzz-readers crashes faults resolve extras format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     run dags_examples/quickstart.py in Airflow, on this host   (ARGS=--kill: kill a worker, and see its step go on)"
	@echo "make airflow  start Airflow with the examples in it (PORT=8081 if 8080 is taken)"
	@echo "make test     run every test, in three quarters of an hour on two cores    (ARGS='-k resources', ARGS=tests/unit/test_resources.py)"
	@echo "make test-long  run the tests that make test skips, because they take long and seldom fail (for crashes: make crashes)"
	@echo "make under-load  run tests repeatedly while two busy loops take the processor (ARGS='--phase unit --times 2')"
	@echo "make fuzz-readers  feed damaged data to every reader of stored bytes (STEPOP_FUZZ_EXAMPLES=5000 for each reader)"
	@echo "make fuzz     run 200 steps and kill the processes around them at random (STEPOP_FUZZ=1000 for more)"
	@echo "make crashes  measure every crash in a real Airflow again, and write docs/crashes.md"
	@echo "make faults   measure every fault of a cluster at full length, and write docs/backends/kubernetes-faults.md"
	@echo "make lint     check the code with ruff           (make format: write the fixes)"
	@echo "make types    check the types with mypy"
	@echo "make docs     build the documentation into site/"
	@echo "make bench    print the benchmarks               (make bench-short: short measurements, which only show that each one runs)"
	@echo "make resolve  check that every extra resolves with Airflow on every Python (needs the package index)"
	@echo "make extras   install all extras together, and import their packages"
	@echo "make clean    remove everything that these targets have created"

$(STAMPS)/base: pyproject.toml
	@scripts/make_env $(VENV)

$(STAMPS)/%: pyproject.toml | $(STAMPS)/base
	@scripts/make_env $(VENV) $*

demo: $(STAMPS)/base
	@$(BIN)/python scripts/demo.py $(ARGS)

airflow: $(STAMPS)/examples
	@$(BIN)/python scripts/standalone.py $(ARGS)

# All phases run, even if an earlier one has failed
test: $(STAMPS)/test
ifneq ($(NAMED),)
	@echo "==> pytest"
	@$(BIN)/python -m pytest $(JOURNALLED) $(ARGS)
else
	@failed=; trap 'exit 130' INT; \
	$(foreach phase,$(PHASES),$(call RUN,$(phase))) \
	$(call NOTE,{\"phases\": $(words $(PHASES))}); \
	test -z "$$failed" || { echo "==> pytest: failed in$$failed"; exit 1; }
endif

test-long: $(STAMPS)/test
	@$(BIN)/python -m pytest $(PHASE_unit) --long -m long $(JOURNALLED) $(ARGS)

under-load: $(STAMPS)/test
	@$(BIN)/python -m scripts.under_load $(ARGS)

fuzz-readers: $(STAMPS)/test
	@STEPOP_FUZZ_EXAMPLES=$${STEPOP_FUZZ_EXAMPLES:-5000} $(BIN)/python -m pytest -n 2 --timeout 3600 \
		tests/chaos/fuzz/test_readers.py $(ARGS)

fuzz: $(STAMPS)/test
	@STEPOP_FUZZ=$${STEPOP_FUZZ:-200} $(BIN)/python -m pytest tests/chaos/fuzz/test_kills.py $(ARGS)

crashes: $(STAMPS)/test
	@STEPOP_CI=1 STEPOP_S3SERVER=$${STEPOP_S3SERVER:-scripts/s3server} \
		$(BIN)/python -m pytest --long tests/chaos/crashes --write-crash-table $(ARGS)

# This target needs KUBECONFIG and STEPOP_CLUSTER: see tests/chaos/faults/parts.py
faults: $(STAMPS)/test
	@STEPOP_CI=1 STEPOP_FAULTS_FULL=1 $(BIN)/python -m pytest tests/chaos/faults --write-fault-table $(ARGS)

lint: $(STAMPS)/lint
	@echo "==> ruff"
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

format: $(STAMPS)/lint
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

types: $(STAMPS)/lint $(STAMPS)/test
	@echo "==> mypy"
	@$(BIN)/mypy $(ARGS)

docs: $(STAMPS)/docs
	@echo "==> mkdocs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)
	@echo "The documentation is in site/index.html"

bench: $(BENCH_VENV)/stamps/bench $(BENCH_VENV)/stamps/bench-clouds
	@$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

bench-short: $(BENCH_VENV)/stamps/bench
	@$(BENCH_VENV)/bin/python -m benchmarks --short $(ARGS)

$(BENCH_VENV)/stamps/%: pyproject.toml
	@scripts/make_env $(BENCH_VENV) $*

resolve: $(STAMPS)/test
	@STEPOP_INDEX=1 $(BIN)/python -m pytest -m index tests/project/test_packaging.py $(ARGS)

extras: $(ALL_VENV)/stamps/base
	@echo "==> every extra, installed together"
	@scripts/install $(ALL_VENV) --editable '.[all]'
	@$(ALL_VENV)/bin/python -m pip check
	@$(ALL_VENV)/bin/python -c "import airflow_stepop.decorators, azure.ai.ml, boto3, google.auth, google.cloud.aiplatform_v1, kubernetes, modal"

$(ALL_VENV)/stamps/base: pyproject.toml
	@scripts/make_env $(ALL_VENV)

clean:
	@scripts/postgres remove .airflow/postgres
	rm -rf $(VENV) $(BENCH_VENV) $(ALL_VENV) .airflow .demo site dist build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
