#!/usr/bin/env bash
# `make bench`: an optimised build, installed, and the cost of our functions beside pgcrypto's on a fresh cluster.
# Prints a table and writes target/bench/latest.json. Arguments go to the driver (--quick, --rows N).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

use_postgres
scripts/install-extension.sh --release
cargo build -p colcrypt-bench >&2
mkdir -p target/bench
"$TARGET/debug/bench" --out target/bench/latest.json "$@"
