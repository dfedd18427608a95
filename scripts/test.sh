#!/usr/bin/env bash
# test.sh unit | integration, with the features and the server of PostgreSQL $PG. More arguments go to run_tests.py, as cargo test
# takes them: --test sql jobs -- --nocapture.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
use_postgres
cd "$ROOT"

# The suites compare error messages; a backtrace in a child's stderr does not belong there.
unset RUST_BACKTRACE

# The independent reader, and the key servers the suites talk to; a missing one is a failure, not a skip.
scripts/setup-python.sh
scripts/install-openbao.sh >&2
scripts/install-fake-aws.sh >&2
scripts/install-pykmip.sh >&2
scripts/install-shamir.sh >&2
scripts/install-drivers.sh >&2
scripts/install-chromium.sh >&2
scripts/install-prometheus.sh >&2
scripts/install-patroni.sh >&2

# Every selection is the whole workspace with one set of features, and targets are chosen by name: with another selection
# cargo would build the dependencies, the cloud vendors' SDKs among them, once more.
read -ra selection <<<"--workspace $(cargo_features)"

# The tests in crates/*/tests, as cargo names them.
unit_targets() {
    local file
    for file in crates/*/tests/*.rs; do echo "--test $(basename "$file" .rs)"; done
    for file in crates/*/tests/*/main.rs; do echo "--test $(basename "$(dirname "$file")")"; done
    # Of those in tests/it, the ones that are one file need no server.
    for file in tests/it/*.rs; do echo "--test $(basename "$file" .rs)"; done
}

# The suites in tests/it that run servers; the one between two PostgreSQLs, and that of Citus, have scripts of their own.
suites() {
    local file
    for file in tests/it/*/main.rs; do
        case "$file" in tests/it/upgrade/main.rs | tests/it/citus/main.rs) continue ;; esac
        echo "--test $(basename "$(dirname "$file")")"
    done
}

what="${1:-}"
shift || true
case "$what" in
unit)
    read -ra targets <<<"$(unit_targets | tr '\n' ' ')"
    # Tests in a server's process are cargo pgrx's to run.
    python3 scripts/run_tests.py "${selection[@]}" --lib --bins "${targets[@]}" "$@" -- --skip tests::pg_
    ;;
integration)
    # A target in the arguments (--test sql) takes the place of all.
    read -ra targets <<<"$(suites | tr '\n' ' ')"
    if [[ " $* " == *" --test "* || " $* " == *" --lib "* ]]; then targets=(); fi
    python3 scripts/run_tests.py "${selection[@]}" "${targets[@]}" "$@"
    ;;
*) die "usage: test.sh unit|integration [cargo test arguments]" ;;
esac
