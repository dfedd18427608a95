#!/usr/bin/env bash
# `make bench-instructions`: instructions that each step of the hot path takes in the core, and each prepared statement of
# one row in the server, counted by callgrind, which no other load on the machine changes. Compares with
# benches/instructions.tsv: more than 2 % either way is an error, 5 % for a statement, in which the server does other
# things as well. --save writes the new counts there. They are of one compiler, one aws-lc and one PostgreSQL: save them
# anew after an update.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

if ! command -v valgrind >/dev/null; then
    say "installing valgrind"
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends valgrind </dev/null >&2
fi
# The profile of what is installed, but for this one program.
cargo build --release -p colcrypt-bench --bin instructions >&2
program="$TARGET/release/instructions"
stored=benches/instructions.tsv

count() { # step times
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        sed -n 's/^==[0-9]*== Collected : //p'
}

# A multiple of the values that one block of nonces serves, so that the system calls do not show.
few=4080 many=8160
counts="$(
    "$program" | while read -r step; do
        printf '%s\t%s\n' "$step" $((($(count "$step" "$many") - $(count "$step" "$few")) / (many - few)))
    done
)"
use_postgres
# Without a profile, by which counts would change with each training.
UNTRAINED=1 scripts/install-extension.sh --release
# shellcheck disable=SC2046  # options, split on purpose
cargo build --workspace $(cargo_features) --bin bench >&2
# pg_ctl tells of the start on standard output, too.
counts+="
$("$TARGET/debug/bench" --only statements | awk 'NF == 2 && $2 ~ /^[0-9.]+$/ { printf "statement-%s\t%d\n", $1, $2 }')"
if [ "${1:-}" = --save ]; then
    printf '%s\n' "$counts" >"$stored"
    say "written to $stored"
fi
printf '%s\n' "$counts" | awk -F'\t' '
    NR == FNR { before[$1] = $2; next }
    {
        change = before[$1] ? ($2 / before[$1] - 1) * 100 : 0
        most = $1 ~ /^statement-/ ? 5 : 2
        over = change > most || change < -most || !before[$1]
        failed += over
        printf "%-34s %8d instructions %+7.1f %%%s\n", $1, $2, change, over ? "  <-- more than " most " %" : ""
    }
    END { exit failed > 0 }' "$stored" -
