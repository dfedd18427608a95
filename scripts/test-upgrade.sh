#!/usr/bin/env bash
# pg_upgrade from 15 to 16 of a server with keys, jobs under way and an audit log. Builds the extension for both, and sees
# that it compiles for the newest PostgreSQL, which the same wheel brings.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
unset RUST_BACKTRACE
[ "$PG" = 15 ] || die "test-upgrade goes from 15 to 16; PG=$PG is not its business"

# 16 first, so that what is left in the target directory afterwards is what `make test` builds on.
new() { env -u PG_CONFIG -u PGRX_PG_CONFIG_PATH PG=16 "$@"; }
new scripts/setup.sh
new scripts/install-extension.sh
newest() { env -u PG_CONFIG -u PGRX_PG_CONFIG_PATH PG=18 "$@"; }
newest scripts/setup.sh
# shellcheck disable=SC2016  # for the other shell to expand
newest bash -c '. scripts/lib.sh; use_postgres
    cargo check --quiet --locked --lib -p colcrypt --no-default-features --features "pg$PG"'
use_postgres
scripts/install-extension.sh
scripts/install-drivers.sh >&2 # brings npm

COLCRYPT_UPGRADE_FROM="$(scripts/install-old-postgres.sh)"
# shellcheck disable=SC2016  # for the other shell to expand
COLCRYPT_UPGRADE_TO="$(new bash -c '. scripts/lib.sh; use_postgres; echo "$BINDIR"')"
export COLCRYPT_UPGRADE_FROM COLCRYPT_UPGRADE_TO
read -ra selection <<<"--workspace $(cargo_features)"
cargo test "${selection[@]}" --test upgrade "$@"
