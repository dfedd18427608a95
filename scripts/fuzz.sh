#!/usr/bin/env bash
# fuzz.sh MINUTES [TARGET…]: builds the fuzz targets and runs them. See docs/fuzzing.md.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

# The fuzz targets stand on the same versions as the workspace, so that cargo takes what it has built already, and so that what is
# fuzzed is what is shipped.
same_versions() {
    local differing
    differing="$(comm -23 <(packages fuzz/Cargo.lock) <(packages Cargo.lock) | grep -vE '^(arbitrary|colcrypt-fuzz|libfuzzer-sys) ' || true)"
    [ -z "$differing" ] && return
    die "fuzz/Cargo.lock has other versions than Cargo.lock (bring them in line with 'cargo update --manifest-path fuzz/Cargo.toml" \
        "-p NAME --precise VERSION'):" "$differing"
}
packages() { awk -F'"' '/^name = / { name = $2 } /^version = / { print name, $2 }' "$1" | sort -u; }

# The same features too: one that differs has all that stand on it compiled once more, minutes of every check.
same_features() {
    local differing
    # shellcheck disable=SC2046  # two options, split on purpose
    differing="$(comm -13 <(features --workspace $(cargo_features)) <(features --manifest-path fuzz/Cargo.toml) |
        grep -Ff <(packages Cargo.lock | sed 's/ / v/; s/$/ /') | grep -vE '^colcrypt-' || true)"
    [ -z "$differing" ] && return
    die "fuzz/Cargo.toml has other features than the workspace ('cargo tree --workspace -f \"{p} {f}\"'): $differing"
}
features() { cargo tree --locked --prefix none --format '{p} {f}' "$@" | sed 's/ (\*)$//; s/ (proc-macro)//' | sort -u; }

minutes="${1:?usage: fuzz.sh MINUTES [TARGET…]}"
shift
same_versions
same_features
# What counts as fresh does not depend on the wrapper, so another target folder's artifacts cannot be mistaken for ours by it: our own
# crates have a profile, and a feature, of their own here.
RUSTC_WRAPPER="$ROOT/fuzz/rustc" CARGO_TARGET_DIR="$TARGET" cargo build --locked --manifest-path fuzz/Cargo.toml
exec python3 scripts/fuzz.py "$TARGET/debug" "$minutes" "$@"
