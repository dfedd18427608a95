#!/usr/bin/env bash
# `make bench`: an optimised build, installed, and the cost of our functions beside pgcrypto's on a fresh cluster.
# Prints a table and writes target/bench/latest.json. Arguments go to the driver (--quick, --rows N).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

use_postgres
scripts/install-extension.sh --release
# As every other build of these crates does, so that none of them is built twice.
# shellcheck disable=SC2046  # options, split on purpose
cargo build --workspace $(cargo_features) --bin bench >&2
mkdir -p target/bench
"$TARGET/debug/bench" --out target/bench/latest.json "$@"
