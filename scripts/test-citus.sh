#!/usr/bin/env bash
# The suite of distributed tables, on the PostgreSQL of PG_CONFIG, to which somebody gave Citus: nothing here fetches or builds it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ -n "${PG_CONFIG:-}" ] || die "say which PostgreSQL has Citus: make test-citus PG_CONFIG=…/pg_config"
[ -x "$PG_CONFIG" ] || die "no pg_config at $PG_CONFIG"
[ -e "$("$PG_CONFIG" --pkglibdir)/citus.so" ] || die "the PostgreSQL of $PG_CONFIG has no Citus: install it there first"
PG="$("$PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')"
use_postgres
cd "$ROOT"
unset RUST_BACKTRACE

scripts/install-extension.sh
read -ra selection <<<"--workspace $(cargo_features)"
python3 scripts/run_tests.py "${selection[@]}" --test citus "$@"
