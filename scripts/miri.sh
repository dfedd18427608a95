#!/usr/bin/env bash
# The parsers of crates/core that need no C, under miri: undefined behaviour in what they stand on would be seen. Nightly Rust alone
# has miri, so nothing else asks for it. MIRI_TOOLCHAIN chooses one.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
toolchain="${MIRI_TOOLCHAIN:-nightly}"
if ! cargo "+$toolchain" miri --version >/dev/null 2>&1; then
    die "miri is not installed: run 'rustup toolchain install nightly --component miri,rust-src'"
fi
# Those without aws-lc, which is C; and without the two that measure time.
modules=(compression context format jsonb numeric place record slab_index)
CARGO_TARGET_DIR="$TARGET/miri" MIRIFLAGS=-Zmiri-disable-isolation \
    cargo "+$toolchain" miri test --locked -p colcrypt-core --lib -- "${modules[@]/%/::}" --skip lengths_alone_cost_no_more --skip no_bytes_and_no_damage
