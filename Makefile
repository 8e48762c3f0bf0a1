# Two commands do all the set-up: `make demo` and `make test`. What runs is built in the profile release, what checks
# it in another (Cargo.toml says why).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
RELEASE := --release --locked
CHECKED := --profile checked --locked
DATA ?= ../shared/data
# `make kafka`: one broker or three, and where their data lies
BROKERS ?= 1
KAFKA_DIR ?= data/kafka-$(BROKERS)

# Prints how long a phase took: $(call phase,name,command)
phase = @echo "== $(1)"; begin=$$SECONDS; $(2); echo "== $(1): $$((SECONDS - begin)) s"

# All tests are named within the workspace: one package selected alone has other features, and compiles the libraries
# anew. They mostly wait, so groups of them run at once; programs without Kafka are cut where their names give two
# groups that take about as long.
TESTS = $(CARGO) test $(CHECKED) --workspace
WITHOUT_KAFKA = ./tools/at_once.py \
	units '$(TESTS) --lib --bins; $(TESTS) --doc' \
	a-d '$(TESTS) --exclude onhand-kafka --test "[a-d]*"' \
	e-z '$(TESTS) --exclude onhand-kafka --test "[!a-d]*" --examples'

# Those on Kafka: the engine, other programs and moving a log; the main job with two instances asked in turn, what dies
# and goes wrong. Each group has brokers of its own. Where instances share the machine with their brokers one test runs
# at a time. On two cores three groups end no sooner, and their instances fall silent.
ENGINE = --test ahead --test cluster --test one_broker --test three_brokers
MAIN_JOB = --test import --test last_unit --test feed
OTHERS = --test others --test log_copy
FAULTS = --test instances --test kafka_faults
BESIDE_BROKERS = ./tools/kafka/brokers.py with --brokers 3 -- $(TESTS)
ONE_BY_ONE = -- --test-threads 1
ON_KAFKA = export ONHAND_TEST_DATA=$(DATA); ./tools/at_once.py \
	engine '$(TESTS) $(ENGINE); $(BESIDE_BROKERS) $(OTHERS) $(ONE_BY_ONE)' \
	instances 'ONHAND_TEST_INSTANCES=2 $(BESIDE_BROKERS) $(MAIN_JOB); $(BESIDE_BROKERS) $(FAULTS) $(ONE_BY_ONE)'

.PHONY: help build demo demo-kafka kafka test compiled soak bench bench-kafka ci fmt clippy doc deny

help:
	@echo "make demo   a node, a day of trading, and what happens, shown live"
	@echo "make test   all tests"
	@echo "make demo-kafka   three Kafka brokers, two instances, one of which is killed; needs Java 17 and Maven"
	@echo "make soak   the long counts of the tests (about two hours)"
	@echo "make bench  figures for docs/benchmarks.md, measured here, with PostgreSQL and Redis beside us"
	@echo "make bench-kafka  the same for onhand on Kafka, with Kafka Streams beside us; needs a JDK 17 and Maven"
	@echo "make kafka  local Kafka brokers for serve --kafka, BROKERS=1 or 3; needs Java 17 and Maven"
	@echo "make ci     what a change must pass: format, lints, documentation, tests"

build:
	$(call phase,build,$(CARGO) build $(RELEASE) -p onhand-cli)

demo: build
	@./target/release/onhand demo

test: compiled
	$(call phase,tests,export ONHAND_TEST_DATA=$(DATA); $(WITHOUT_KAFKA))
	$(call phase,tests on Kafka,$(ON_KAFKA))

compiled:
	$(call phase,tests compiled,$(TESTS) --no-run)

soak: MAIN_JOB += --test random_reservations
soak: compiled
	$(call phase,soak,export ONHAND_SOAK=1 ONHAND_TEST_DATA=$(DATA); $(WITHOUT_KAFKA))
	$(call phase,soak on Kafka,export ONHAND_SOAK=1; $(ON_KAFKA))

bench: build
	$(call phase,example,$(CARGO) build $(RELEASE) -p onhand-flows --example facts)
	@ONHAND_TEST_DATA=$(DATA) ./bench/run.py

bench-kafka: build
	@./bench/kafka.py

demo-kafka: build
	@./tools/kafka/brokers.py with --brokers 3 -- sh -c './target/release/onhand demo --kafka "$$ONHAND_TEST_KAFKA"'

kafka:
	@./tools/kafka/brokers.py run $(KAFKA_DIR) --brokers $(BROKERS)

fmt:
	$(call phase,format,$(CARGO) fmt --all --check)

clippy:
	$(call phase,lints,$(CARGO) clippy $(CHECKED) --workspace --all-targets -- -D warnings)

doc:
	$(call phase,documentation,RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(CHECKED) --workspace --no-deps)

deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "== licences and sources: skipped: cargo-deny is not installed"; fi

ci: fmt clippy doc deny test
