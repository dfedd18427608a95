#!/usr/bin/env bash
# `cargo pgrx test`, as itself for a normal user and as user "postgres" for root, who may not run a server.
# Arguments go to cargo pgrx test.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

# A backtrace in every error message would change what the tests compare, and cost seconds each.
unset RUST_BACKTRACE

# cargo-pgrx builds the library with linker flags of its own, for linkers that drop its section. They would make
# cargo compile every dependency once more.
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1

# One selection of packages for each of the builds, as in every other script: nothing is compiled twice.
read -ra selection <<<"--workspace $(cargo_features)"
cargo build "${selection[@]}" --bins
export COLCRYPT_TEST_AGENT="$TARGET/debug/colcrypt"
export CARGO="$ROOT/scripts/cargo-whole.sh" PGRX_BUILD_FLAGS="--workspace --features colcrypt-cli/default"
arguments=("pg$PG" tests::pg_ --no-default-features)

PGRX_HOME="$(pgrx_home)"
export PGRX_HOME
if is_root; then
    # Under --runas cargo-pgrx copies over the installed library in place, which would crash servers that have
    # it mapped; without a file in the way it makes a new one.
    rm -f "$("$PG_CONFIG" --pkglibdir)/colcrypt.so"
    data="$(socket_dir "pgrx-$PG")"
    cargo-pgrx pgrx test "${arguments[@]}" --runas postgres --pgdata "$data" "$@"
else
    # pgrx connects as $USER.
    USER="$(id -un)" cargo-pgrx pgrx test "${arguments[@]}" "$@"
fi
