# Two commands do all the set-up: `make demo` and `make test`. Everything builds in one profile.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
RELEASE := --release --locked
DATA ?= ../shared/data
# `make kafka`: one broker or three, and where their data lies
BROKERS ?= 1
KAFKA_DIR ?= data/kafka-$(BROKERS)

# Prints how long a phase took: $(call phase,name,command)
phase = @echo "== $(1)"; begin=$$SECONDS; $(2); echo "== $(1): $$((SECONDS - begin)) s"

# The tests of the main job, once more on Kafka.
ON_KAFKA = --test import --test last_unit --test random_reservations --test feed --test kills

.PHONY: help build demo kafka test soak bench ci fmt clippy doc deny

help:
	@echo "make demo   a node, a day of trading, and what happens, shown live"
	@echo "make test   all tests"
	@echo "make soak   the long counts of the tests (about an hour)"
	@echo "make bench  figures for docs/benchmarks.md, measured here, with PostgreSQL and Redis beside us"
	@echo "make kafka  local Kafka brokers for serve --kafka, BROKERS=1 or 3; needs Java 17 and Maven"
	@echo "make ci     what a change must pass: format, lints, documentation, tests"

build:
	$(call phase,build,$(CARGO) build $(RELEASE) -p onhand-cli)

demo: build
	@./target/release/onhand demo

test: build
	$(call phase,tests,ONHAND_TEST_DATA=$(DATA) $(CARGO) test $(RELEASE) --workspace)
	$(call phase,tests on Kafka,ONHAND_TEST_DATA=$(DATA) ./tools/kafka/brokers.py with --brokers 3 -- $(CARGO) test $(RELEASE) -p onhand-cli $(ON_KAFKA))

soak: build
	$(call phase,soak,ONHAND_SOAK=1 ONHAND_TEST_DATA=$(DATA) $(CARGO) test $(RELEASE) --workspace)
	$(call phase,soak on Kafka,ONHAND_SOAK=1 ONHAND_TEST_DATA=$(DATA) ./tools/kafka/brokers.py with --brokers 3 -- $(CARGO) test $(RELEASE) -p onhand-cli $(ON_KAFKA))

bench: build
	$(call phase,example,$(CARGO) build $(RELEASE) -p onhand-flows --example facts)
	@ONHAND_TEST_DATA=$(DATA) ./bench/run.py

kafka:
	@./tools/kafka/brokers.py run $(KAFKA_DIR) --brokers $(BROKERS)

fmt:
	$(call phase,format,$(CARGO) fmt --all --check)

clippy:
	$(call phase,lints,$(CARGO) clippy $(RELEASE) --workspace --all-targets -- -D warnings)

doc:
	$(call phase,documentation,RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(RELEASE) --workspace --no-deps)

deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "== licences and sources: skipped: cargo-deny is not installed"; fi

ci: fmt clippy doc deny test
