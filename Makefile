# colcrypt: build, try, test. `make help` lists what there is; PG=15 (default) to 18 chooses the PostgreSQL.
PG ?= 15
export PG
SHELL := bash
# `make -C … cluster` must print nothing but its assignments.
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup setup-pgrx install demo run cluster cluster-stop test test-all test-smoke test-unit test-pgrx test-integration \
	test-upgrade test-citus package test-package torture soak test-kryoptic fuzz test-fuzz test-models miri lint bench bench-instructions clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  PG=16, 17 or 18 after any of them uses another PostgreSQL than 15"

setup: ## install what is missing: PostgreSQL, its headers, libclang
	@scripts/setup.sh

setup-pgrx: setup ## cargo-pgrx and its configuration (only `cargo pgrx …` needs it)
	@scripts/setup-pgrx.sh

install: setup ## build the extension and the colcrypt program for development (slow, 110 MB), install both into PostgreSQL
	@scripts/install-extension.sh

demo: ## 200,000 customers encrypted, rotated under load and checked (DEMO_ARGS="--quick")
	@scripts/demo.sh $(DEMO_ARGS)

cluster: install ## start a private cluster, print how to connect as shell assignments
	@scripts/cluster.sh start

cluster-stop: ## stop it
	@scripts/cluster.sh stop

run: install ## psql on the private cluster
	@scripts/cluster.sh psql

# One after the other: each wants the whole machine, and test-pgrx installs a library of its own kind.
test: ## all tests, with their own set-up
	@$(MAKE) test-unit
	@$(MAKE) test-fuzz
	@$(MAKE) test-models
	@$(MAKE) test-pgrx
	@$(MAKE) test-integration

test-all: ## all tests on PostgreSQL 15, 16, 17 and 18, with figures for each at the end
	@scripts/test-all.sh full

test-smoke: ## on 16, 17 and 18 what depends on the server's version
	@scripts/test-all.sh smoke

test-unit: setup ## everything that needs no server
	@scripts/test.sh unit

test-pgrx: setup-pgrx ## cargo pgrx test
	@scripts/test-pgrx.sh

test-integration: install ## real clusters, a real key server
	@scripts/test.sh integration

test-upgrade: setup ## pg_upgrade from 15, 16 and 17 to 18, and from 15 to 16, with jobs under way (builds the extension for all)
	@scripts/test-upgrade.sh

test-citus: ## distributed tables, on the PostgreSQL of PG_CONFIG=…, which has Citus already; not part of make test
	@scripts/test-citus.sh

package: setup ## Debian packages of the extension and the program, into target/package
	@scripts/package.sh

test-package: setup ## packages installed, upgraded and purged on an empty Debian: 12 (PG=15) or 13 (PG=17), as root
	@scripts/test-package.sh

torture: install ## 200 processes killed at random moments, then every row compared; rotate_kek and resharing likewise (KILLS=… SEED=…)
	@KILLS=$${KILLS:-200} scripts/test.sh integration --test torture -- --nocapture

soak: setup ## credentials of every provider replaced every 5 s for 5 minutes under load (SOAK_SECONDS=…)
	@COLCRYPT_SOAK_SECONDS=$(or $(SOAK_SECONDS),300) COLCRYPT_TEST_THREADS=7 scripts/test.sh integration --test kms -- credentials_are_rotated --nocapture

test-kryoptic: setup ## the provider pkcs11 at Kryoptic, beside SoftHSM (builds it from the Rust registry: needs libssl-dev, libsqlite3-dev)
	@scripts/test-kryoptic.sh

fuzz: setup ## all fuzz targets in turns for MINUTES=10 (TARGETS="jsonb kmip" for some)
	@scripts/fuzz.sh $(or $(MINUTES),10) $(TARGETS)

test-fuzz: setup ## their seeds, and a minute of fuzzing
	@scripts/fuzz.sh 1

test-models: setup ## every order in which processes can meet in what they share, by loom
	@scripts/test-models.sh

miri: ## the core's parsers under miri (needs nightly Rust with it)
	@scripts/miri.sh

lint: setup ## rustfmt, clippy, cargo-deny, shellcheck
	@scripts/lint.sh

bench: setup ## cost per value beside pgcrypto, into target/bench/latest.json
	@scripts/bench.sh $(BENCH_ARGS)

bench-instructions: setup ## instructions of the core's steps, counted by callgrind
	@scripts/bench-instructions.sh $(BENCH_ARGS)

clean: ## stop the clusters and remove everything built
	@scripts/clean.sh
