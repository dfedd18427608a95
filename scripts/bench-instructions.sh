#!/usr/bin/env bash
# `make bench-instructions`: instructions that each step of the hot path takes in the core, counted by callgrind, which
# no other load on the machine changes. Compares with benches/instructions.tsv: more than 2 % either way is an error.
# --save writes the new counts there. The counts are of one compiler and one aws-lc: save them anew after an update.
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
if [ "${1:-}" = --save ]; then
    printf '%s\n' "$counts" >"$stored"
    say "written to $stored"
fi
printf '%s\n' "$counts" | awk -F'\t' '
    NR == FNR { before[$1] = $2; next }
    {
        change = before[$1] ? ($2 / before[$1] - 1) * 100 : 0
        over = change > 2 || change < -2 || !before[$1]
        failed += over
        printf "%-16s %8d instructions %+7.1f %%%s\n", $1, $2, change, over ? "  <-- more than 2 %" : ""
    }
    END { exit failed > 0 }' "$stored" -
