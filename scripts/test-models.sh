#!/usr/bin/env bash
# Runs what processes share through every order in which they can meet. See tests/models.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
CARGO_TARGET_DIR="$TARGET" cargo test --locked --manifest-path tests/models/Cargo.toml -- --test-threads=2
