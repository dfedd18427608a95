#!/usr/bin/env bash
# cargo as `cargo pgrx test` calls it, for the whole workspace. cargo-pgrx selects one package, for which cargo would choose
# other features of the crates that it shares with the rest, and build PostgreSQL's bindings and some forty crates once more.
set -euo pipefail
if [ "${1:-}" = test ]; then
    shift
    set -- test --workspace --lib --features colcrypt-cli/default "$@"
fi
exec cargo "$@"
