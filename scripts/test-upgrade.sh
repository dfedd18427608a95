#!/usr/bin/env bash
# pg_upgrade of a server with keys, jobs under way and an audit log, from each supported PostgreSQL to the newest, and from
# 15 to the one after it. Builds the extension for all of them.
# Files are copied and linked on one way, and copied on the others: what pg_upgrade does with them is not ours.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
unset RUST_BACKTRACE
[ "$PG" = 15 ] || die "test-upgrade goes through all versions by itself; PG=$PG is not its business"

# 15 last, so that what is left in the target directory afterwards is what `make test` builds on.
for version in 16 17 18; do
    for_postgres "$version" scripts/setup.sh
    for_postgres "$version" scripts/install-extension.sh
done
use_postgres
scripts/install-extension.sh
scripts/install-drivers.sh >&2 # brings npm

bindir() { # version
    # shellcheck disable=SC2016  # for the other shell to expand
    for_postgres "$1" bash -c '. scripts/lib.sh; use_postgres; echo "$BINDIR"'
}
old15="$(scripts/install-old-postgres.sh)"
old17="$(for_postgres 17 scripts/install-old-postgres.sh)"
read -ra selection <<<"--workspace $(cargo_features)"
upgrade() { # bindir bindir [cargo test arguments]
    local from="$1" to="$2"
    shift 2
    say "from $("$from/postgres" --version) to $("$to/postgres" --version)"
    COLCRYPT_UPGRADE_FROM="$from" COLCRYPT_UPGRADE_TO="$to" cargo test "${selection[@]}" --test upgrade "$@"
}
upgrade "$old15" "$(bindir 16)" "$@"
newest="$(bindir 18)"
for from in "$old15" "$(bindir 16)" "$old17"; do
    upgrade "$from" "$newest" with_the_files_copied "$@"
done
