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

minutes="${1:?usage: fuzz.sh MINUTES [TARGET…]}"
shift
same_versions
# What counts as fresh does not depend on the wrapper, so another target folder's artifacts cannot be mistaken for ours by it: our own
# crates have a profile, and a feature, of their own here.
RUSTC_WRAPPER="$ROOT/fuzz/rustc" CARGO_TARGET_DIR="$TARGET" cargo build --locked --manifest-path fuzz/Cargo.toml
exec python3 scripts/fuzz.py "$TARGET/debug" "$minutes" "$@"
