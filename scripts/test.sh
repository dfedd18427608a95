#!/usr/bin/env bash
# test.sh unit | integration, with the features and the server of PostgreSQL $PG. More arguments go to cargo test.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

# The suites compare error messages; a backtrace in a child's stderr does not belong there.
unset RUST_BACKTRACE

# The independent reader, and the key server the suites talk to; a missing one is a failure, not a skip.
scripts/setup-python.sh
scripts/install-openbao.sh >&2

what="${1:-}"
shift || true
case "$what" in
unit) cargo test --workspace --exclude colcrypt --exclude colcrypt-tests --exclude colcrypt-bench "$@" ;;
integration) cargo test -p colcrypt-tests "$@" ;;
*) die "usage: test.sh unit|integration [cargo test arguments]" ;;
esac
