#!/usr/bin/env bash
# The provider pkcs11 at a token of another make than SoftHSM: builds Kryoptic from the Rust registry (one to four minutes, once)
# and runs the test that asks for it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

for library in libcrypto sqlite3; do
    pkg-config --exists "$library" || die "Kryoptic needs the headers of $library: install libssl-dev and libsqlite3-dev"
done
tools="$(state_dir)/tools/kryoptic"
cargo build --locked --manifest-path tests/kryoptic/Cargo.toml --target-dir "$tools"
module="$tools/debug/libkryoptic_module.so"
chmod go-w "$module"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
printf '[[slots]]\nslot = 1\ndbtype = "sqlite"\ndbargs = "%s/tokens.sql"\n' "$work" >"$work/kryoptic.conf"
export KRYOPTIC_CONF="$work/kryoptic.conf" COLCRYPT_KRYOPTIC="$module"
scripts/test.sh integration --test kms -- a_token_of_another_make_serves --ignored
